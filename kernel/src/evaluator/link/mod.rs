//! The kernel's end of the link and of the two FIFOs: one task, so that text and frames keep their order.
//!
//! On a frame it first reads everything that is in the FIFOs (the runtime has flushed before it sent the frame),
//! then acts on the frame, then answers; the sender waits. Children come and go, the sockets stay.
//!
//! One frame has no bytes and no answer: the cell of the question that waits has ended.
//!
//! Used by both evaluators of Rust. [`shared`] joins it with the evaluator's thread and interrupts; [`errors`] says how
//! cells end, as Jupyter's three fields.

pub(super) mod errors;
mod markers;
mod processes;
pub(super) mod shared;

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use alephlab_link::{
    COMMS_SOCKET, CommEvent, HeardEvent, MAX_FRAME_BYTES, MimeBundle, ToChild, ToKernel, ToldEvent,
    read_frame, write_frame,
};
use bytes::{Buf, BytesMut};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe::Receiver;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use self::markers::{Markers, Piece};
use self::shared::{Panic, Shared};
use crate::cell::Cell;
use crate::child::{FIFO_BYTES, make_fifo};
use crate::iopub::Stream;
use crate::{Error, Result};

/// How long text that may be a mark is held: marks are written at once.
const HOLD: Duration = Duration::from_millis(50);
/// Bytes read from a FIFO at once.
const READ_BYTES: usize = 64 * 1024;

/// Sockets of one kernel.
pub(super) struct Link {
    folder: PathBuf,
    task: Task,
}

struct Task {
    shared: Arc<Shared>,
    listener: UnixListener,
    /// Where the child listens to clients of its comms.
    comms: UnixListener,
    stdout: Fifo,
    stderr: Fifo,
    markers: Markers,
    barrier: mpsc::Receiver<oneshot::Sender<()>>,
    child: Option<Connection<UnixStream>>,
}

/// Our end of a FIFO, twice: tokio tells when there is something; but a frame must find everything that is there
/// now, also what tokio has not heard of yet, and so reads the file itself.
struct Fifo {
    watched: Receiver,
    file: File,
}

struct Connection<S> {
    stream: S,
    buffer: BytesMut,
}

/// Why the task woke up.
enum Woken {
    Accepted(std::io::Result<UnixStream>),
    Listens(std::io::Result<UnixStream>),
    Frame(std::io::Result<Option<ToKernel>>),
    Stdout,
    Stderr,
    Barrier(oneshot::Sender<()>),
    HeldLongEnough,
}

impl Link {
    /// Makes the sockets in a folder.
    pub(super) fn bind(folder: &Path, shared: &Arc<Shared>) -> Result<Self> {
        let _entered = shared.handle().enter();
        let socket = folder.join("link");
        let listener = UnixListener::bind(&socket).map_err(Error::file("listen on", &socket))?;
        let comms_socket = folder.join(COMMS_SOCKET);
        let comms = UnixListener::bind(&comms_socket).map_err(Error::file("listen on", &comms_socket))?;
        let (send, barrier) = mpsc::channel(1);
        shared.set_barrier(send);
        let task = Task {
            shared: Arc::clone(shared),
            listener,
            comms,
            stdout: Fifo::make(&folder.join("out"))?,
            stderr: Fifo::make(&folder.join("err"))?,
            markers: Markers::default(),
            barrier,
            child: None,
        };
        Ok(Self {
            folder: folder.to_owned(),
            task,
        })
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.folder.join("link")
    }

    pub(super) fn stdout(&self) -> PathBuf {
        self.folder.join("out")
    }

    pub(super) fn stderr(&self) -> PathBuf {
        self.folder.join("err")
    }

    /// Serves children until the process ends.
    pub(super) fn serve(self) {
        let handle = self.task.shared.handle().clone();
        handle.spawn(self.task.run());
    }
}

impl Task {
    async fn run(mut self) {
        loop {
            match self.wait().await {
                Woken::Accepted(Ok(stream)) => {
                    self.child = Some(Connection {
                        stream,
                        buffer: BytesMut::new(),
                    });
                }
                Woken::Listens(Ok(stream)) => {
                    let (heard, told) = stream.into_split();
                    let shared = Arc::clone(&self.shared);
                    let (listener, said) = shared.comms().listen();
                    tokio::spawn(async move {
                        tokio::select! {
                            () = tell(told, said, &shared) => {}
                            () = hear(heard, &shared) => {}
                        }
                        shared.comms().deaf(listener);
                    });
                }
                Woken::Listens(Err(error)) => tracing::warn!(%error, "the child cannot listen to clients"),
                Woken::Accepted(Err(error)) => tracing::warn!(%error, "the child cannot connect"),
                // The question was answered before.
                Woken::Frame(Ok(None)) => {}
                Woken::Frame(Ok(Some(frame))) => {
                    self.drain().await;
                    let answer = self.act(frame).await;
                    self.answer(&answer).await;
                }
                Woken::Frame(Err(_)) => {
                    self.child = None;
                    self.shared.child_gone();
                }
                Woken::Stdout => self.read_stdout().await,
                Woken::Stderr => self.read_stderr().await,
                Woken::Barrier(done) => {
                    self.drain().await;
                    self.finish_markers();
                    let _ = done.send(());
                }
                Woken::HeldLongEnough => self.finish_markers(),
            }
        }
    }

    async fn wait(&mut self) -> Woken {
        let child = self.child.as_mut();
        let holding = self.markers.is_holding();
        tokio::select! {
            // In this order: a barrier and frames read the FIFOs themselves.
            biased;
            Some(done) = self.barrier.recv() => Woken::Barrier(done),
            accepted = self.listener.accept() => Woken::Accepted(accepted.map(|(stream, _)| stream)),
            accepted = self.comms.accept() => Woken::Listens(accepted.map(|(stream, _)| stream)),
            frame = next_frame(child) => Woken::Frame(frame),
            Ok(()) = self.stdout.watched.readable() => Woken::Stdout,
            Ok(()) = self.stderr.watched.readable() => Woken::Stderr,
            () = tokio::time::sleep(HOLD), if holding => Woken::HeldLongEnough,
        }
    }

    /// Reads what is in the FIFOs now, without waiting: of text that another thread goes on writing no more than a
    /// FIFO holds.
    async fn drain(&mut self) {
        self.read_stdout().await;
        self.read_stderr().await;
    }

    async fn read_stdout(&mut self) {
        let mut bytes = vec![0_u8; READ_BYTES];
        let mut total = 0;
        while total < FIFO_BYTES
            && let Some(length) = self.stdout.read(&mut bytes)
        {
            total += length;
            let pieces = self.markers.push(&bytes[..length]);
            self.publish(pieces);
            tokio::task::yield_now().await;
        }
    }

    async fn read_stderr(&mut self) {
        let mut bytes = vec![0_u8; READ_BYTES];
        let mut total = 0;
        while total < FIFO_BYTES
            && let Some(length) = self.stderr.read(&mut bytes)
        {
            total += length;
            self.shared.text(Stream::Stderr, &bytes[..length]);
            tokio::task::yield_now().await;
        }
    }

    fn finish_markers(&mut self) {
        let pieces = self.markers.finish();
        self.publish(pieces);
    }

    fn publish(&self, pieces: Vec<Piece>) {
        for piece in pieces {
            match piece {
                Piece::Text(bytes) => self.shared.text(Stream::Stdout, &bytes),
                Piece::Control(line) => self.shared.control(line),
                Piece::Content { media_type, content } => {
                    self.shared
                        .result(content_bundle(media_type, content), MimeBundle::new());
                }
            }
        }
    }

    async fn act(&mut self, frame: ToKernel) -> ToChild {
        match frame {
            ToKernel::Hello { pid, runtime } => {
                tracing::debug!(pid, runtime, "child started");
                self.shared.child_started(pid);
            }
            ToKernel::CellStart => {
                return ToChild::CellStarted {
                    client: self.shared.cell_started(),
                };
            }
            ToKernel::ErrorText { text } => self.shared.error_text(text),
            ToKernel::Panic {
                message,
                location,
                interrupted,
            } => {
                self.shared.panicked(Panic {
                    message,
                    location,
                    interrupted,
                });
            }
            ToKernel::Returned { outcome } => self.shared.returned(outcome),
            ToKernel::Result { data, metadata } => self.shared.result(data, metadata),
            ToKernel::CellEnd => {
                self.finish_markers();
                return ToChild::CellEnded {
                    control: self.shared.cell_ended(),
                };
            }
            other => return self.act_on_output(other).await,
        }
        ToChild::Ack
    }

    async fn act_on_output(&mut self, frame: ToKernel) -> ToChild {
        if let ToKernel::Comm { event, answers } = &frame {
            self.comm(event, *answers);
            return ToChild::Ack;
        }
        let Some(cell) = self.shared.cell_for_output() else {
            return match frame {
                ToKernel::Input { .. } => ToChild::Input { value: None },
                _ => ToChild::Ack,
            };
        };
        match frame {
            ToKernel::Display {
                data,
                metadata,
                display_id,
            } => {
                cell.display(&data, &metadata, display_id.as_deref());
            }
            ToKernel::UpdateDisplay {
                data,
                metadata,
                display_id,
            } => {
                cell.update_display(&data, &metadata, &display_id);
            }
            ToKernel::ClearOutput { wait } => cell.clear_output(wait),
            ToKernel::Page { data } => cell.page(&data),
            ToKernel::SetNextInput { text, replace } => cell.set_next_input(&text, replace),
            ToKernel::Input { prompt, password } => {
                return ToChild::Input {
                    value: self.ask(&cell, &prompt, password).await,
                };
            }
            _ => {}
        }
        ToChild::Ack
    }

    /// Not an output: what the cell's last expression showed may still be its result.
    fn comm(&self, event: &CommEvent, answers: Option<u64>) {
        let comms = self.shared.comms();
        comms.note(event);
        let answered = answers.and_then(|number| comms.parent_of(number));
        if let Some(cell) = self.shared.cell() {
            cell.comm(event, answered.as_ref());
        }
    }

    /// Asks the person, until the cell ends or the child is gone.
    async fn ask(&mut self, cell: &Cell, prompt: &str, password: bool) -> Option<String> {
        if !self.shared.is_running() {
            return None;
        }
        tokio::select! {
            answer = cell.input(prompt, password) => answer,
            // Who asks has the link, so nothing comes but the cell's end or the child's.
            _ = next_frame(self.child.as_mut()) => None,
        }
    }

    async fn answer(&mut self, answer: &ToChild) {
        let mut bytes = Vec::new();
        let Some(child) = self.child.as_mut() else { return };
        if write_frame(&mut bytes, answer).is_err() || child.stream.write_all(&bytes).await.is_err() {
            self.child = None;
            self.shared.child_gone();
        }
    }
}

/// Passes on what clients say on comms, until the child is gone.
async fn tell(mut stream: OwnedWriteHalf, mut said: mpsc::Receiver<ToldEvent>, shared: &Shared) {
    while let Some(event) = said.recv().await {
        let mut bytes = Vec::new();
        if let Err(error) = write_frame(&mut bytes, &event) {
            // Code that waits for it waits on: the person must hear why.
            shared.text(Stream::Stderr, not_told(&error).as_bytes());
            shared.comms().heard(event.number);
        } else if stream.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// Why a message of a client did not come to the code.
fn not_told(error: &alephlab_link::Error) -> String {
    let limit = MAX_FRAME_BYTES >> 20;
    format!(
        "A message of this notebook was not handed to the code: {error}. Files chosen in a file upload come whole in one \
         message of at most {limit} MiB, which is {} MiB of files: choose smaller ones, or put larger ones into a \
         dataset (`alephlab dataset put`).\n",
        limit * 3 / 4
    )
}

/// Hears which of it the code has heard, until the child is gone.
async fn hear(stream: OwnedReadHalf, shared: &Shared) {
    let buffer = BytesMut::new();
    let mut child = Connection { stream, buffer };
    while let Ok(heard) = read_from::<HeardEvent, _>(&mut child).await {
        heard.iter().for_each(|heard| shared.comms().heard(heard.number));
    }
}

/// The child's next frame; for ever pending without a child. Dropping it loses nothing.
async fn next_frame(child: Option<&mut Connection<UnixStream>>) -> std::io::Result<Option<ToKernel>> {
    match child {
        None => std::future::pending().await,
        Some(child) => read_from(child).await,
    }
}

/// The next frame, `None` for one of no bytes. Dropping it loses nothing.
async fn read_from<T: DeserializeOwned, S: AsyncRead + Unpin>(
    child: &mut Connection<S>,
) -> std::io::Result<Option<T>> {
    loop {
        if let Some(header) = child.buffer.first_chunk::<4>() {
            let length = usize::try_from(u32::from_be_bytes(*header)).unwrap_or(usize::MAX);
            if length > MAX_FRAME_BYTES {
                return Err(std::io::ErrorKind::InvalidData.into());
            }
            if length == 0 {
                child.buffer.advance(4);
                return Ok(None);
            }
            if child.buffer.len() >= 4 + length {
                let frame = read_frame(&mut &child.buffer[..4 + length]);
                child.buffer.advance(4 + length);
                return frame.map(Some).map_err(std::io::Error::other);
            }
        }
        if child.stream.read_buf(&mut child.buffer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// A content block as a bundle; JSON goes unpacked.
fn content_bundle(media_type: String, content: String) -> MimeBundle {
    let is_json = media_type.ends_with("json");
    let parsed = is_json.then(|| serde_json::from_str(&content).ok()).flatten();
    let mut bundle = MimeBundle::new();
    bundle.insert(media_type, parsed.unwrap_or(Value::String(content)));
    bundle
}

impl Fifo {
    /// Makes a FIFO. Our end is also open for writing: so it has no end when a child dies.
    fn make(path: &Path) -> Result<Self> {
        make_fifo(path).map_err(Error::file("make", path))?;
        let mut options = File::options();
        let file = options
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path);
        let file = file.map_err(Error::file("open", path))?;
        let copy = file.try_clone().map_err(Error::file("open", path))?;
        let watched = Receiver::from_file(copy).map_err(Error::file("watch", path))?;
        Ok(Self { watched, file })
    }

    /// Reads some bytes, without waiting.
    fn read(&mut self, bytes: &mut [u8]) -> Option<usize> {
        if let Some(length) = self.file.read(bytes).ok().filter(|length| *length > 0) {
            return Some(length);
        }
        // Empty: told to tokio, which would wake us again at once otherwise.
        self.watched.try_read(bytes).ok().filter(|length| *length > 0)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn link(folder: &Path) -> Link {
        let shared = Arc::new(Shared::new(tokio::runtime::Handle::current(), Arc::default()));
        Link::bind(folder, &shared).unwrap()
    }

    #[tokio::test]
    async fn writers_that_never_pause_do_not_hold_a_frame_up() {
        let folder = tempfile::tempdir().unwrap();
        let mut link = link(folder.path());
        for _ in 0..3 {
            let mut fifo = File::options().write(true).open(link.stdout()).unwrap();
            // Ends when the FIFO loses its reader.
            std::thread::spawn(move || while fifo.write_all(&[b'x'; READ_BYTES]).is_ok() {});
        }
        let read = tokio::time::timeout(Duration::from_secs(60), link.task.read_stdout());
        read.await.unwrap();
    }

    #[tokio::test]
    async fn a_question_without_a_running_cell_is_answered_with_nothing_and_a_late_cancellation_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let link = link(folder.path());
        let mut child = UnixStream::connect(link.socket()).await.unwrap();
        link.serve();
        let question = ToKernel::Input {
            prompt: String::new(),
            password: false,
        };
        let mut bytes = Vec::new();
        write_frame(&mut bytes, &question).unwrap();
        bytes.extend([0; 4]);
        write_frame(&mut bytes, &ToKernel::CellStart).unwrap();
        child.write_all(&bytes).await.unwrap();
        let mut expected = Vec::new();
        let started = ToChild::CellStarted {
            client: alephlab_link::Client::Notebook,
        };
        for answer in [ToChild::Input { value: None }, started] {
            write_frame(&mut expected, &answer).unwrap();
        }
        let mut answers = vec![0; expected.len()];
        let read = tokio::time::timeout(Duration::from_secs(60), child.read_exact(&mut answers));
        read.await.unwrap().unwrap();
        assert_eq!(answers, expected);
    }
}
