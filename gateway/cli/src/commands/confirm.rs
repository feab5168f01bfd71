//! Asking before something is lost: who decides types its name.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;

use crate::error::{CliError, Result};

/// What is about to happen, in the words of the question.
pub(super) struct Loss {
    /// What becomes of it: `be gone for good`.
    pub(super) becomes: &'static str,
    /// What was not done, when the person says no: `forgotten`.
    pub(super) done: &'static str,
    /// The infinitive, for the flag's hint: `forget`.
    pub(super) verb: &'static str,
}

/// Asks the person, who types the name; where nobody can be asked, says what to add.
pub(super) fn confirm(of: &str, name: &str, loss: &Loss) -> Result<()> {
    let Loss { becomes, done, verb } = loss;
    let refused = |message: String| CliError::Usage {
        message,
        hint: format!("add --yes to {verb} without being asked"),
    };
    if !std::io::stdin().is_terminal() {
        return Err(refused(format!(
            "{of} would {becomes}, and nobody can be asked here"
        )));
    }
    let mut line = String::new();
    let question = format!("{of} will {becomes}. Type {name} to go on: ");
    let mut stderr = std::io::stderr();
    let asked = stderr
        .write_all(question.as_bytes())
        .and_then(|()| stderr.flush());
    let read = asked.and_then(|()| std::io::stdin().read_line(&mut line));
    read.map_err(|source| CliError::file("read", Path::new("standard input"), source))?;
    if line.trim() == name {
        return Ok(());
    }
    Err(refused(format!("that is not its name: nothing was {done}")))
}

/// Asks whether to go on; nobody who can be asked is a no.
pub(super) fn agreed(question: &str) -> Result<bool> {
    println!("{question} Type yes:");
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .map_err(|source| CliError::file("read", Path::new("standard input"), source))?;
    Ok(matches!(answer.trim(), "yes" | "y"))
}
