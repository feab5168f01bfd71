//! The frames themselves and their encoding: a big-endian `u32` length, then that many bytes of JSON.

use std::io::{Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{CommEvent, Error, Result};

/// Longest frame that either end takes, in bytes: an image or table of a display, not a data channel.
pub const MAX_FRAME_BYTES: usize = 64 * 1024 * 1024;

/// Name of the socket, beside the link's, that a child connects to when it wants to hear of comms.
pub const COMMS_SOCKET: &str = "comms";

/// One output in several formats: media type to value (a string, or JSON for `application/json`).
pub type MimeBundle = serde_json::Map<String, serde_json::Value>;

/// What the runtime in the child tells the kernel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ToKernel {
    /// First frame of a child.
    Hello {
        /// Process id of the child.
        pid: u32,
        /// Build stamp of the runtime.
        runtime: String,
    },
    /// The cell's code is about to run: from now on an interrupt goes to the child, not to the compiler.
    CellStart,
    /// The text that evcxr's generated code prints for an error that `?` returned from the cell. It is that
    /// error's message when the control line for it follows, and plain text of stderr otherwise.
    ErrorText {
        /// Without the line's end.
        text: String,
    },
    /// Show something now.
    Display {
        /// The output.
        data: MimeBundle,
        /// Jupyter's metadata of the output.
        metadata: MimeBundle,
        /// Names the output, so that it can be updated.
        display_id: Option<String>,
    },
    /// Replace what was shown under a name.
    UpdateDisplay {
        /// The new output.
        data: MimeBundle,
        /// Jupyter's metadata of the output.
        metadata: MimeBundle,
        /// Which output.
        display_id: String,
    },
    /// Remove the cell's output so far.
    ClearOutput {
        /// Only when the next output comes.
        wait: bool,
    },
    /// Value of the cell's last expression.
    Result {
        /// The output.
        data: MimeBundle,
        /// Jupyter's metadata of the output.
        metadata: MimeBundle,
    },
    /// The thread that runs the cell panicked or was interrupted.
    Panic {
        /// The panic's message.
        message: String,
        /// `file:line:column`.
        location: String,
        /// The panic is the runtime's own answer to an interrupt.
        interrupted: bool,
    },
    /// Ask the person for a line.
    Input {
        /// Shown before the field.
        prompt: String,
        /// Do not show what is typed.
        password: bool,
    },
    /// Something on a comm, for the clients.
    Comm {
        /// What.
        event: CommEvent,
        /// Number of the [`crate::ToldEvent`] whose handling this comes from, when it comes from one.
        answers: Option<u64>,
    },
    /// A longer text that the client shows apart from the outputs.
    Page {
        /// The text.
        data: MimeBundle,
    },
    /// Put text into a new cell below, or in place of the cell's own.
    SetNextInput {
        /// The text.
        text: String,
        /// In place of the cell's own.
        replace: bool,
    },
    /// How the code of a cell ended that the zygote compiled. (evcxr's cells say it in lines of their own.)
    Returned {
        /// How.
        outcome: Outcome,
    },
    /// The cell's code has returned and its streams are flushed.
    CellEnd,
}

/// What kind of client sent a cell: how something that changes in place is best shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Client {
    /// Outputs are rich and can be replaced.
    #[default]
    Notebook,
    /// A terminal: text, whose last line can be written over.
    Terminal,
}

/// How a cell ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "snake_case")]
pub enum Outcome {
    /// By itself.
    Finished,
    /// `?` returned an error.
    Failed {
        /// What it says.
        message: String,
        /// `file:line:column` of the `?`.
        location: String,
    },
    /// It panicked: see [`ToKernel::Panic`].
    Panicked,
    /// The person stopped it.
    Interrupted,
}

/// What the kernel answers; exactly one for each [`ToKernel`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ToChild {
    /// Done.
    Ack,
    /// Answer to [`ToKernel::CellStart`].
    CellStarted {
        /// Who sent the cell.
        client: Client,
    },
    /// Answer to [`ToKernel::Input`].
    Input {
        /// The line without its end, or nothing when no input is allowed here or it was interrupted.
        value: Option<String>,
    },
    /// Answer to [`ToKernel::CellEnd`], when all text of the cell has been published.
    CellEnded {
        /// evcxr's own control lines, found in the cell's text, to be passed on to evcxr.
        control: Vec<String>,
    },
}

/// Writes one frame and flushes.
///
/// # Errors
/// [`Error::TooLarge`] before a byte is written, [`Error::Closed`] and [`Error::Io`] from the socket.
pub fn write_frame<T: Serialize>(writer: &mut impl Write, frame: &T) -> Result<()> {
    let mut bytes = vec![0_u8; 4];
    serde_json::to_writer(&mut bytes, frame).map_err(|source| Error::Malformed { source })?;
    let length = bytes.len() - 4;
    let header = match u32::try_from(length) {
        Ok(header) if length <= MAX_FRAME_BYTES => header,
        _ => return Err(too_large(length as u64)),
    };
    bytes[..4].copy_from_slice(&header.to_be_bytes());
    writer.write_all(&bytes)?;
    writer.flush()?;
    Ok(())
}

/// Reads one frame, waiting for it.
///
/// # Errors
/// [`Error::Closed`] at the end of the stream, [`Error::TooLarge`] before anything is allocated,
/// [`Error::Malformed`] when the bytes are not a `T`.
pub fn read_frame<T: DeserializeOwned>(reader: &mut impl Read) -> Result<T> {
    let mut header = [0_u8; 4];
    reader.read_exact(&mut header)?;
    let length = u32::from_be_bytes(header);
    if u64::from(length) > MAX_FRAME_BYTES as u64 {
        return Err(too_large(u64::from(length)));
    }
    let mut bytes = Vec::new();
    // `take` and not a buffer of `length`: a lying header must not make us allocate.
    let read = reader.by_ref().take(u64::from(length)).read_to_end(&mut bytes)?;
    if (read as u64) < u64::from(length) {
        return Err(Error::Closed);
    }
    serde_json::from_slice(&bytes).map_err(|source| Error::Malformed { source })
}

fn too_large(bytes: u64) -> Error {
    Error::TooLarge {
        bytes,
        limit: MAX_FRAME_BYTES as u64,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::os::unix::net::UnixStream;

    use serde_json::json;

    use super::*;

    fn bundle(text: &str) -> MimeBundle {
        let mut bundle = MimeBundle::new();
        bundle.insert("text/plain".to_owned(), json!(text));
        bundle
    }

    #[test]
    fn every_frame_survives_a_socket() {
        let frames = [
            ToKernel::Hello {
                pid: 7,
                runtime: "0.1.0 é".to_owned(),
            },
            ToKernel::CellStart,
            ToKernel::ErrorText {
                text: "no such file".into(),
            },
            ToKernel::Display {
                data: bundle("a"),
                metadata: MimeBundle::new(),
                display_id: Some("d".into()),
            },
            ToKernel::UpdateDisplay {
                data: bundle("b"),
                metadata: bundle("m"),
                display_id: "d".into(),
            },
            ToKernel::ClearOutput { wait: true },
            ToKernel::Result {
                data: bundle("c"),
                metadata: MimeBundle::new(),
            },
            ToKernel::Panic {
                message: "m".into(),
                location: "src/lib.rs:1:2".into(),
                interrupted: true,
            },
            ToKernel::Input {
                prompt: "name? ".into(),
                password: true,
            },
            ToKernel::Comm {
                event: CommEvent {
                    metadata: bundle("m"),
                    buffers: vec![vec![0, 255], Vec::new()],
                    ..CommEvent::open("c", "t", json!({ "state": {} }))
                },
                answers: None,
            },
            ToKernel::Comm {
                event: CommEvent::close("c"),
                answers: Some(7),
            },
            ToKernel::Page { data: bundle("p") },
            ToKernel::SetNextInput {
                text: "1 + 1".into(),
                replace: true,
            },
            ToKernel::CellEnd,
        ];
        let (mut a, mut b) = UnixStream::pair().unwrap();
        for frame in frames {
            write_frame(&mut a, &frame).unwrap();
            assert_eq!(read_frame::<ToKernel>(&mut b).unwrap(), frame);
        }
        for frame in [
            ToChild::Ack,
            ToChild::CellStarted {
                client: Client::Terminal,
            },
            ToChild::Input { value: None },
            ToChild::Input {
                value: Some("Ada".into()),
            },
            ToChild::CellEnded {
                control: vec!["EVCXR_PANIC_NOTIFICATION".into()],
            },
        ] {
            write_frame(&mut b, &frame).unwrap();
            assert_eq!(read_frame::<ToChild>(&mut a).unwrap(), frame);
        }
    }

    #[test]
    fn frames_carry_a_snake_case_type_tag() {
        let value = serde_json::to_value(ToKernel::ClearOutput { wait: false }).unwrap();
        assert_eq!(value, json!({ "type": "clear_output", "wait": false }));
        assert_eq!(
            serde_json::to_value(ToKernel::CellEnd).unwrap(),
            json!({ "type": "cell_end" })
        );
    }

    #[test]
    fn refuses_a_frame_over_the_limit_before_writing() {
        let mut out = Vec::new();
        let error = write_frame(&mut out, &json!("x".repeat(MAX_FRAME_BYTES))).unwrap_err();
        assert_eq!(error.code(), "link_frame_too_large");
        assert!(out.is_empty());
    }

    #[test]
    fn refuses_a_header_over_the_limit() {
        let mut input = Cursor::new(u32::MAX.to_be_bytes().to_vec());
        assert_eq!(
            read_frame::<ToChild>(&mut input).unwrap_err().code(),
            "link_frame_too_large"
        );
    }

    #[test]
    fn tells_a_closed_link_from_a_broken_frame() {
        let mut nothing = Cursor::new(Vec::new());
        assert_eq!(
            read_frame::<ToChild>(&mut nothing).unwrap_err().code(),
            "link_closed"
        );
        let mut cut = Cursor::new(vec![0, 0, 0, 9, b'{']);
        assert_eq!(read_frame::<ToChild>(&mut cut).unwrap_err().code(), "link_closed");
        let mut garbage = Cursor::new(vec![0, 0, 0, 2, b'{', b'x']);
        assert_eq!(
            read_frame::<ToChild>(&mut garbage).unwrap_err().code(),
            "link_frame_malformed"
        );
    }
}
