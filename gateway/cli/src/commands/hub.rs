//! `alephlab hub`: stock Hub clients on this machine, over sealed models.

use std::path::{Path, PathBuf};

use alephlab_api::Secret;
use clap::Args;
use serde_json::json;

use super::at_gateway::AtGateway;
use super::model::registry;
use crate::data::private_line;
use crate::error::{CliError, Result};
use crate::hub::Endpoint;
use crate::logs;
use crate::progress::Reporter;
use crate::stop::{self, or_stop};

/// Shortest token that a file may give: it could be guessed.
const TOKEN_CHARS_MIN: usize = 24;
/// Letters and digits of a token that is made here: 40 of 62 are 238 bits.
const TOKEN_CHARS: usize = 40;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Serve the Hugging Face Hub's routes on this machine's loopback, until Ctrl-C.
///
/// Set `HF_ENDPOINT` and `HF_TOKEN` to what is printed, and `huggingface_hub`, `hf`, `transformers` and Rust `hf-hub`
/// publish and download models of this account and those that it may read: sealed and opened on this machine. Shares whose
/// token it keeps are `m/UUID`. The token stands for the account: whoever has it on this machine can publish with its wallet.
#[derive(Args)]
pub(crate) struct Hub {
    #[command(flatten)]
    at: AtGateway,
    /// TCP port on 127.0.0.1; a free one by default.
    #[arg(long, value_name = "N", default_value_t = 0)]
    port: u16,
    /// File with the token, which only its owner can read; without it a new token is made at each start.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Publish also files that carry code: pickles, programs, archives. A model with such a file is never Verified.
    #[arg(long)]
    unchecked: bool,
    /// Print the address and the token as one line of JSON.
    #[arg(long)]
    json: bool,
}

impl Hub {
    /// Serves until it is stopped.
    pub(crate) async fn run(self) -> Result<()> {
        let stop = stop::on_signal()?;
        let loaded = self.at.load()?;
        let data = loaded.open_data()?;
        logs::start(&data)?;
        let token = self.token_file.as_deref().map(token_of).transpose()?;
        let registry = or_stop(&stop, "starting the hub", registry(&self.at, &loaded)).await?;
        let account = registry.account().address();
        let made = token.is_none();
        let token = token.unwrap_or_else(new_token);
        let endpoint = Endpoint::open(registry, token.clone(), self.port, self.unchecked).await?;
        let url = endpoint.url().to_owned();
        if self.json {
            let mut line = json!({ "url": url, "account": account });
            if made {
                line["token"] = token.expose().into();
            }
            println!("{line}");
        } else {
            println!("export HF_ENDPOINT={url}");
            if made {
                println!("export HF_TOKEN={}", token.expose());
            }
            let reporter = Reporter::new();
            reporter.write(&format!(
                "models of {account} are at {url}/{account}/NAME; the text of a README.md is public, for good, but of a private \
                 model; Ctrl-C ends"
            ));
        }
        endpoint.serve(stop).await
    }
}

/// The token of a file.
fn token_of(file: &Path) -> Result<Secret> {
    let line = private_line(file)?;
    let is_plain = line.bytes().all(|byte| byte.is_ascii_graphic());
    if line.len() >= TOKEN_CHARS_MIN && is_plain {
        return Ok(Secret::new(line.as_str()));
    }
    Err(CliError::Usage {
        message: format!(
            "the first line of {} is no token: it needs at least {TOKEN_CHARS_MIN} plain characters",
            file.display()
        ),
        hint: "write random letters and digits into it, or leave out --token-file".to_owned(),
    })
}

/// `hf_`, as clients expect it, and random letters and digits.
fn new_token() -> Secret {
    let mut token = String::from("hf_");
    while token.len() < 3 + TOKEN_CHARS {
        let byte: u8 = rand::random();
        // 248 is 4 × 62: larger bytes would favour the first letters.
        if byte < 248 {
            token.push(char::from(ALPHABET[usize::from(byte % 62)]));
        }
    }
    Secret::new(token)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::testing::scratch;

    #[test]
    fn tokens_are_random_or_come_from_a_file_that_only_its_owner_reads() {
        let (one, other) = (new_token(), new_token());
        assert_eq!(one.expose().len(), 43);
        assert_ne!(one.expose(), other.expose());
        let folder = scratch();
        let file = folder.path().join("token");
        std::fs::write(&file, "hf_0123456789abcdefghijklmn\n").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(token_of(&file).is_err());
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(token_of(&file).unwrap().expose(), "hf_0123456789abcdefghijklmn");
        std::fs::write(&file, "short\n").unwrap();
        let refused = token_of(&file).err().unwrap();
        assert!(refused.to_string().contains("is no token"), "{refused}");
    }
}
