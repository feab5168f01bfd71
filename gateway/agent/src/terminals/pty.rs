//! A pseudoterminal's own end, read and written without blocking.

use std::io;
use std::os::fd::OwnedFd;
use std::process::Stdio;

use alephlab_api::agent::WindowSize;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::net::unix::pipe::{Receiver, Sender};

/// The end that the agent has. Tokio's pipes only wait until it is ready: their own reads take a short one for the last, which
/// it is not here.
pub(super) struct Pty {
    output: Receiver,
    input: Sender,
}

/// The end that becomes a shell's standard input, output and error.
pub(super) struct Streams(OwnedFd);

impl Pty {
    pub(super) fn open(size: WindowSize) -> io::Result<(Self, Streams)> {
        let own = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&own)?;
        unlockpt(&own)?;
        let name = ptsname(&own, Vec::new())?;
        // Without NOCTTY it could become the agent's own terminal.
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let other = open(name.as_c_str(), flags, Mode::empty())?;
        rustix::io::ioctl_fionbio(&own, true)?;
        let pty = Self {
            input: Sender::from_owned_fd_unchecked(own.try_clone()?)?,
            output: Receiver::from_owned_fd_unchecked(own)?,
        };
        pty.resize(size)?;
        Ok((pty, Streams(other)))
    }

    pub(super) fn resize(&self, size: WindowSize) -> io::Result<()> {
        let size = Winsize {
            ws_row: size.rows,
            ws_col: size.cols,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&self.output, size).map_err(Into::into)
    }

    /// What was put out; 0 bytes when nobody has the other end any more.
    pub(super) async fn read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            self.output.readable().await?;
            match self.output.try_io(|| self.read_now(bytes)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
        }
    }

    /// The same without waiting.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there.
    pub(super) fn read_now(&self, bytes: &mut [u8]) -> io::Result<usize> {
        match rustix::io::read(&self.output, bytes) {
            // Linux says so when the last process that had it is gone.
            Err(Errno::IO) => Ok(0),
            read => read.map_err(Into::into),
        }
    }

    pub(super) async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            self.input.writable().await?;
            let write = || rustix::io::write(&self.input, bytes).map_err(Into::into);
            match self.input.try_io(write) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return written,
            }
        }
    }
}

impl Streams {
    /// Standard input, output and error.
    pub(super) fn stdio(self) -> io::Result<[Stdio; 3]> {
        let [input, output] = [self.0.try_clone()?, self.0.try_clone()?];
        Ok([input.into(), output.into(), self.0.into()])
    }
}
