//! `alephlab token`: makes, lists and revokes the access tokens of an account at a gateway.

use std::io::Write as _;

use alephlab_api::client::GatewayClient;
use alephlab_api::time;
use alephlab_api::token::{MadeToken, NewToken, Scope, TokenInfo};
use clap::{Args, Subcommand};
use serde_json::json;

use super::at_gateway::AtGateway;
use super::share::parse_term;
use crate::error::{CliError, Result};

/// Make and end the access tokens of an account's programs.
///
/// Each program gets a token of its own, with no wider a scope than it needs, so that it can be ended by itself. The gateway
/// keeps only the token's hash.
#[derive(Args)]
pub(crate) struct Token {
    #[command(flatten)]
    at: AtGateway,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Make a token and print it; it is shown this once.
    Create {
        /// What to call it, such as the program and the machine that use it.
        name: String,
        /// What it may do: read looks; run also starts kernels, runs cells and saves files; admin does all that the account may.
        #[arg(long, default_value = "run", value_name = "read|run|admin")]
        scope: Scope,
        /// How long it works, such as 12h or 30d; 365d at most.
        #[arg(long, value_name = "TIME", default_value = "30d", value_parser = parse_term)]
        expires: u64,
    },
    /// List the account's tokens.
    List,
    /// End a token, and what is open by it.
    Revoke {
        /// Its id or name, as `list` shows them.
        token: String,
    },
}

impl Token {
    /// Runs the action.
    pub(crate) async fn run(self) -> Result<()> {
        let (gateway, _) = self.at.connect().await?;
        match &self.action {
            Action::Create { name, scope, expires } => {
                let wanted = NewToken {
                    name: name.clone(),
                    scope: *scope,
                    life: Some(*expires),
                };
                let made = gateway.new_token(&wanted).await?;
                self.print_made(&made);
                Ok(())
            }
            Action::List => {
                let tokens = gateway.tokens().await?;
                self.print_all(&tokens);
                Ok(())
            }
            Action::Revoke { token } => self.revoke(&gateway, token).await,
        }
    }

    async fn revoke(&self, gateway: &GatewayClient, token: &str) -> Result<()> {
        let tokens = gateway.tokens().await?;
        let found = tokens
            .iter()
            .find(|one| one.id.to_string() == token || one.name == token);
        let found = found.ok_or_else(|| CliError::Usage {
            message: format!("the account has no token {token:?} at this gateway"),
            hint: "`alephlab token list` shows those that it has".to_owned(),
        })?;
        gateway.revoke_token(found.id).await?;
        match self.json {
            true => println!("{}", json!({ "revoked": found.id })),
            false => println!("{} is revoked; what was open by it is closed", found.name),
        }
        Ok(())
    }

    /// The token alone on standard output, for a script that takes it from there.
    fn print_made(&self, MadeToken { token, info }: &MadeToken) {
        if self.json {
            println!(
                "{}",
                json!({ "token": token, "id": info.id, "scope": info.scope, "expires": info.expires })
            );
            return;
        }
        let until = time::hub(info.expires);
        // Nobody is left to tell when stderr is closed.
        drop(writeln!(
            std::io::stderr(),
            "token {} of scope {} works until {until}; it is shown this once:",
            info.name,
            info.scope
        ));
        println!("{}", token.expose());
    }

    fn print_all(&self, tokens: &[TokenInfo]) {
        if self.json {
            println!("{}", json!(tokens));
            return;
        }
        if tokens.is_empty() {
            println!("the account has no access token at this gateway");
        }
        for token in tokens {
            let day = |seconds| time::hub(seconds).chars().take(10).collect::<String>();
            let used = token
                .used
                .map_or_else(|| "never used".to_owned(), |used| format!("used {}", day(used)));
            println!(
                "{}  {:<5}  until {}  {used}  {}",
                token.id,
                token.scope.name(),
                day(token.expires),
                token.name
            );
        }
    }
}
