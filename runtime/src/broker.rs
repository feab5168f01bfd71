//! Asks the broker beside this kernel: one connection, one request, its events until the last.
//!
//! Not here: keys and what the broker does with them. Called by [`crate::dataset`], [`crate::model`] and [`crate::secret`].

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use alephlab_api::Secret;
use alephlab_api::broker::{Event, Op, Request};
use alephlab_api::secrets::SecretName;
use alephlab_link::Handover;
use serde::de::DeserializeOwned;

use crate::interrupt::check_interrupt;
use crate::progress::Bar;
use crate::{Error, Result};

/// How long a read waits before it looks whether the cell was interrupted.
const LOOK_UP_EVERY: Duration = Duration::from_millis(100);
/// Longest silence of a broker: five minutes for the owner's machine, and some air.
const SILENCE_MAX: Duration = Duration::from_secs(420);
/// Longest event that is read; a broker's are a few kilobytes.
const EVENT_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Does `op` and shows how far it is; `what` names it, such as `mount digits`.
///
/// # Errors
/// [`Error::NoBroker`] where there is none, [`Error::Broker`] with the broker's own words, [`Error::BrokerGone`].
pub(crate) fn ask<T: DeserializeOwned>(what: &str, op: Op, summary: impl FnOnce(&T) -> String) -> Result<T> {
    let socket = socket()?;
    let mut bar = Bar::new(what, None, "");
    let result = ask_at(&socket, op, &mut |event| show(&mut bar, what, event))?;
    let result: T = serde_json::from_value(result).map_err(|error| Error::BrokerGone {
        reason: error.to_string(),
    })?;
    bar.finish_with(&summary(&result));
    Ok(result)
}

/// Asks without showing anything: for what is answered at once.
///
/// # Errors
/// As [`ask`].
pub(crate) fn ask_quietly<T: DeserializeOwned>(op: Op) -> Result<T> {
    let result = ask_at(&socket()?, op, &mut |_| {})?;
    serde_json::from_value(result).map_err(|error| Error::BrokerGone {
        reason: error.to_string(),
    })
}

/// Asks for the value of a secret.
///
/// # Errors
/// As [`ask`].
pub(crate) fn ask_secret(name: SecretName) -> Result<Secret> {
    secret_at(&socket()?, name)
}

fn secret_at(socket: &Path, name: SecretName) -> Result<Secret> {
    match last_event(socket, Op::Secret { name }, &mut |_| {})? {
        Event::Secret { value, .. } => Ok(value),
        _ => Err(unfit()),
    }
}

/// Where this kernel's broker listens.
fn socket() -> Result<PathBuf> {
    let handover = Handover::from_env()?;
    handover
        .and_then(|handover| handover.broker)
        .ok_or(Error::NoBroker)
}

/// The error for an answer of another kind.
fn unfit() -> Error {
    Error::BrokerGone {
        reason: "it answered something else than it was asked".to_owned(),
    }
}

fn show(bar: &mut Bar, what: &str, event: &Event) {
    match event {
        Event::Progress {
            phase,
            done,
            total,
            unit,
            ..
        } => {
            bar.phase(
                &format!("{what}: {phase}"),
                *done,
                Some(*total).filter(|&total| total > 0),
                unit,
            );
        }
        Event::Waiting { message, .. } => bar.wait_for(&format!("{what}: {message}")),
        Event::Done { .. } | Event::Secret { .. } | Event::Failed { .. } => {}
    }
}

fn ask_at(socket: &Path, op: Op, on_event: &mut dyn FnMut(&Event)) -> Result<serde_json::Value> {
    match last_event(socket, op, on_event)? {
        Event::Done { result, .. } => Ok(result),
        _ => Err(unfit()),
    }
}

/// The conversation itself, until the event that ends it well. Dropping the connection, also by an interrupt, makes the
/// broker stop.
fn last_event(socket: &Path, op: Op, on_event: &mut dyn FnMut(&Event)) -> Result<Event> {
    let gone = |error: std::io::Error| Error::BrokerGone {
        reason: error.to_string(),
    };
    let mut stream = UnixStream::connect(socket).map_err(gone)?;
    stream.set_read_timeout(Some(LOOK_UP_EVERY)).map_err(gone)?;
    let mut line = serde_json::to_vec(&Request { id: 1, op }).map_err(|error| Error::BrokerGone {
        reason: error.to_string(),
    })?;
    line.push(b'\n');
    stream.write_all(&line).map_err(gone)?;
    // The line may hold a share's token.
    line.fill(0);
    let mut reader = BufReader::new(stream);
    loop {
        let event = next_event(&mut reader)?;
        match event {
            Event::Done { .. } | Event::Secret { .. } => return Ok(event),
            Event::Failed { error, .. } => return Err(Error::Broker { problem: error }),
            Event::Progress { .. } | Event::Waiting { .. } => on_event(&event),
        }
    }
}

fn next_event(reader: &mut BufReader<UnixStream>) -> Result<Event> {
    let heard = Instant::now();
    let mut line = Vec::new();
    loop {
        check_interrupt();
        let room = EVENT_BYTES_MAX.saturating_sub(line.len() as u64);
        let reason = match reader.by_ref().take(room).read_until(b'\n', &mut line) {
            Ok(_) if line.ends_with(b"\n") => {
                // serde's message could repeat a secret, so only the place is told.
                let event = serde_json::from_slice(&line).map_err(|error| Error::BrokerGone {
                    reason: format!("it said something unreadable in column {}", error.column()),
                });
                line.fill(0);
                return event;
            }
            Ok(_) if room == 0 => "it said too much at once".to_owned(),
            Ok(_) => "it closed the connection".to_owned(),
            Err(error) if is_pause(&error) && heard.elapsed() < SILENCE_MAX => continue,
            Err(error) if is_pause(&error) => format!("it said nothing for {} s", SILENCE_MAX.as_secs()),
            Err(error) => error.to_string(),
        };
        return Err(Error::BrokerGone { reason });
    }
}

fn is_pause(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), WouldBlock | TimedOut | Interrupted)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use serde_json::json;

    use super::*;

    /// A broker that says `lines` to whoever asks; answers what was asked.
    fn broker(
        lines: &'static str,
    ) -> (
        tempfile::TempDir,
        std::path::PathBuf,
        std::thread::JoinHandle<Request>,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("broker.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let asked = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(stream.try_clone().unwrap())
                .read_line(&mut line)
                .unwrap();
            stream.write_all(lines.as_bytes()).unwrap();
            serde_json::from_str(&line).unwrap()
        });
        (folder, socket, asked)
    }

    fn mount() -> Op {
        Op::Mount {
            reference: "digits".into(),
        }
    }

    #[test]
    fn shows_events_and_answers_the_result() {
        let (_folder, socket, asked) = broker(concat!(
            "{\"event\":\"waiting\",\"id\":1,\"message\":\"approve on your machine: alephlab keys\"}\n",
            "{\"event\":\"progress\",\"id\":1,\"phase\":\"fetch\",\"done\":1,\"total\":2,\"unit\":\"objects\"}\n",
            "{\"event\":\"done\",\"id\":1,\"result\":{\"x\":1}}\n"
        ));
        let mut seen = Vec::new();
        let result = ask_at(&socket, mount(), &mut |event| seen.push(event.clone())).unwrap();
        assert_eq!(result, json!({ "x": 1 }));
        assert_eq!(seen.len(), 2);
        assert!(matches!(asked.join().unwrap().op, Op::Mount { reference } if reference == "digits"));
    }

    #[test]
    fn passes_the_problem_on_with_its_code_and_hint() {
        let (_folder, socket, _asked) = broker(concat!(
            "{\"event\":\"failed\",\"id\":1,\"error\":{\"code\":\"keys_offline\",\"message\":\"nobody answered\",",
            "\"hint\":\"start: alephlab keys\"}}\n"
        ));
        let error = ask_at(&socket, mount(), &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains("nobody answered"), "{error}");
        assert_eq!(error.hint().as_deref(), Some("start: alephlab keys"));
    }

    #[test]
    fn a_secret_comes_as_itself_and_no_other_answer_passes_for_one() {
        let (_folder, socket, asked) =
            broker("{\"event\":\"secret\",\"id\":1,\"value\":\"sk-\\\"canary\\n\"}\n");
        let value = secret_at(&socket, "API_KEY".parse().unwrap()).unwrap();
        assert_eq!(value.expose(), "sk-\"canary\n");
        assert!(matches!(asked.join().unwrap().op, Op::Secret { name } if name.as_str() == "API_KEY"));
        for lines in [
            "{\"event\":\"done\",\"id\":1,\"result\":\"canary\"}\n",
            "{\"event\":\"secret\",\"id\":\"canary\",\"value\":\"canary\"}\n",
        ] {
            let (_folder, socket, _asked) = broker(lines);
            let error = secret_at(&socket, "API_KEY".parse().unwrap()).err().unwrap();
            assert_eq!(error.code(), "broker_gone");
            assert!(!error.to_string().contains("canary"), "{error}");
        }
    }

    #[test]
    fn says_when_the_broker_goes_away_or_is_not_there() {
        let (folder, socket, _asked) = broker("{\"event\":");
        let error = ask_at(&socket, mount(), &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains("closed the connection"), "{error}");
        let nothing = folder.path().join("nothing.sock");
        assert_eq!(
            ask_at(&nothing, mount(), &mut |_| {}).unwrap_err().code(),
            "broker_gone"
        );
    }
}
