//! Passphrases of accounts: from a file that the settings name, or typed at the terminal, where nothing of them is shown.

use std::path::Path;

use alephlab_vault::Passphrase;
use zeroize::Zeroizing;

use crate::data::private_line;
use crate::error::{CliError, Result};

/// Shortest passphrase that is taken for a new file, characters: scrypt makes each guess cost a second, not a year.
const CHARS_MIN: usize = 8;

/// The passphrase that opens the account's keys.
pub(crate) fn passphrase(account: &str, file: Option<&Path>) -> Result<Passphrase> {
    match file {
        Some(file) => read(file),
        None => typed(&format!("Passphrase of {account}: "), account).map(Passphrase::new),
    }
}

/// A passphrase for new key files: from the file, or typed twice.
pub(crate) fn new_passphrase(account: &str, file: Option<&Path>) -> Result<Passphrase> {
    if let Some(file) = file {
        return read(file);
    }
    let first = typed(&format!("New passphrase for {account}: "), account)?;
    if first.chars().count() < CHARS_MIN {
        return Err(CliError::Usage {
            message: format!("the passphrase has fewer than {CHARS_MIN} characters"),
            hint: "a few unrelated words are long and easy to remember".to_owned(),
        });
    }
    if *first != *typed("The same again: ", account)? {
        return Err(CliError::Usage {
            message: "the two passphrases are not the same".to_owned(),
            hint: "nothing was changed: begin again".to_owned(),
        });
    }
    Ok(Passphrase::new(first))
}

/// Whether a person is there to type it. Standard input may be something else: a key that is imported, for example.
pub(crate) fn can_be_typed() -> bool {
    std::fs::File::open("/dev/tty").is_ok()
}

fn typed(prompt: &str, account: &str) -> Result<Zeroizing<String>> {
    if !can_be_typed() {
        return Err(CliError::Usage {
            message: format!("the keys of {account} are locked by a passphrase, and nobody can type it here"),
            hint: "run it at a terminal, or name a file with the passphrase in account.passphrase_file"
                .to_owned(),
        });
    }
    let typed = rpassword::prompt_password(prompt);
    typed
        .map(Zeroizing::new)
        .map_err(|source| CliError::file("read", Path::new("the terminal"), source))
}

/// What stands in the file.
fn read(path: &Path) -> Result<Passphrase> {
    let line = private_line(path)?;
    match line.is_empty() {
        false => Ok(Passphrase::new(line)),
        true => Err(CliError::Usage {
            message: format!("{} holds no passphrase", path.display()),
            hint: "its first line is the passphrase".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::testing::scratch;

    #[test]
    fn a_passphrase_comes_from_a_file_that_only_its_owner_reads() {
        let folder = scratch();
        let file = folder.path().join("passphrase");
        std::fs::write(&file, "correct horse\nmore\n").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        let open = passphrase("ada", Some(&file)).err().unwrap().to_string();
        assert!(open.contains("other people"), "{open}");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(passphrase("ada", Some(&file)).is_ok());
        std::fs::write(&file, "\n").unwrap();
        let empty = new_passphrase("ada", Some(&file)).err().unwrap().to_string();
        assert!(empty.contains("no passphrase"), "{empty}");
    }
}
