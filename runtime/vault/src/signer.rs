//! Who signs for an account: a key in memory, or a program that has it elsewhere, such as on a hardware wallet.
//!
//! The program gets the text on its standard input and prints the EIP-191 signature (`0x` and 65 bytes in hex). What it prints
//! is checked to be the account's before it is used. Called by [`crate::Wallet`].

use crate::keys::Address;
use crate::wallet::recover_text;
use crate::{Result, VaultError};
use aleph_types::account::{Account, EvmAccount, SignError};
use aleph_types::chain::{Address as ChainAddress, Chain, Signature};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::process::{Command, Stdio};

/// Signs for one account.
pub enum Signer {
    /// With a key of this process.
    Key(EvmAccount),
    /// By asking a program.
    Program(Program),
}

/// A program that signs.
pub struct Program {
    address: ChainAddress,
    owner: Address,
    command: Vec<String>,
}

/// What a file says of a [`Program`].
#[derive(Serialize, Deserialize)]
pub(crate) struct ProgramFile {
    pub(crate) address: String,
    pub(crate) signer: Vec<String>,
}

impl Program {
    /// A program and its arguments, which signs as `address`.
    ///
    /// # Errors
    /// `E_MALFORMED` for what is no address, and for no command.
    pub fn new(address: &str, command: Vec<String>) -> Result<Self> {
        let owner: Address = address.parse()?;
        if command.first().is_none_or(String::is_empty) {
            return Err(VaultError::Malformed {
                what: "the signer's command",
                reason: "it is empty".into(),
            });
        }
        Ok(Self {
            address: ChainAddress::from(owner.to_string()),
            owner,
            command,
        })
    }

    pub(crate) fn file(&self) -> ProgramFile {
        ProgramFile {
            address: self.owner.to_string(),
            signer: self.command.clone(),
        }
    }

    pub(crate) fn owner(&self) -> Address {
        self.owner
    }

    fn sign(&self, text: &[u8]) -> std::result::Result<String, String> {
        let (name, arguments) = self.command.split_first().ok_or("there is no program")?;
        let failed = |error: std::io::Error| format!("{name}: {error}");
        let mut running = Command::new(name)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        if let Some(mut input) = running.stdin.take() {
            // One that does not read it may still sign, or say why not.
            let _ = input.write_all(text);
        }
        let done = running.wait_with_output().map_err(failed)?;
        if !done.status.success() {
            return Err(format!("{name} ended with {}", done.status));
        }
        let printed = String::from_utf8_lossy(&done.stdout).trim().to_owned();
        let text = std::str::from_utf8(text).map_err(|_| "the text is not UTF-8")?;
        let signature = normal(&printed).ok_or_else(|| format!("{name} printed no signature"))?;
        match recover_text(text, &signature) {
            Ok(signer) if signer == self.owner => Ok(signature),
            Ok(signer) => Err(format!("{name} signed as {signer}, not as {}", self.owner)),
            Err(error) => Err(format!("{name} printed no valid signature: {error}")),
        }
    }
}

/// With `0x`, and 27 or 28 as its last byte: some print 0 or 1.
fn normal(printed: &str) -> Option<String> {
    let digits = printed.strip_prefix("0x").unwrap_or(printed);
    let mut bytes = hex::decode(digits).ok().filter(|bytes| bytes.len() == 65)?;
    if let Some(last) = bytes.last_mut().filter(|last| **last < 2) {
        *last += 27;
    }
    Some(format!("0x{}", hex::encode(bytes)))
}

impl Account for Signer {
    fn chain(&self) -> Chain {
        match self {
            Self::Key(account) => account.chain(),
            Self::Program(_) => Chain::Ethereum,
        }
    }

    fn address(&self) -> &ChainAddress {
        match self {
            Self::Key(account) => account.address(),
            Self::Program(program) => &program.address,
        }
    }

    fn sign_raw(&self, buffer: &[u8]) -> std::result::Result<Signature, SignError> {
        match self {
            Self::Key(account) => account.sign_raw(buffer),
            Self::Program(program) => program
                .sign(buffer)
                .map(Signature::from)
                .map_err(SignError::SigningFailed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Wallet;

    /// A program that prints what a wallet signed, with its last byte as hardware wallets print it.
    fn printing(text: &str) -> Vec<String> {
        ["sh", "-c", &format!("cat > /dev/null; echo {text}")]
            .map(str::to_owned)
            .to_vec()
    }

    #[test]
    fn what_a_program_prints_is_used_only_when_it_is_the_accounts_signature_of_this_text() {
        let (mine, other) = (Wallet::generate().unwrap(), Wallet::generate().unwrap());
        let signed = mine.sign_text("pay").unwrap();
        let mut bytes = hex::decode(&signed[2..]).unwrap();
        bytes[64] -= 27;
        for printed in [signed.clone(), hex::encode(bytes)] {
            let signer = Signer::Program(Program::new(&mine.address(), printing(&printed)).unwrap());
            assert_eq!(signer.sign_raw(b"pay").unwrap().as_str(), signed);
            let error = signer.sign_raw(b"pay more").unwrap_err().to_string();
            assert!(error.contains("signed as"), "{error}");
        }
        for (command, reason) in [
            (printing(&other.sign_text("pay").unwrap()), "signed as"),
            (printing("0x00"), "printed no signature"),
            (vec!["/no/such/program".to_owned()], "No such file"),
            (vec!["false".to_owned()], "ended with"),
        ] {
            let signer = Signer::Program(Program::new(&mine.address(), command).unwrap());
            let error = signer.sign_raw(b"pay").unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
        assert!(Program::new("0x12", printing("")).is_err());
        assert!(Program::new(&mine.address(), Vec::new()).is_err());
    }
}
