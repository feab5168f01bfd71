//! `alephlab account`: who has an account at a gateway, in which role, and whom it admits; for its operators.

use alephlab_api::account::{AccountChange, AccountInfo, Role};
use alephlab_api::time;
use clap::{Args, Subcommand};
use serde_json::json;

use super::at_gateway::AtGateway;
use crate::error::Result;

/// Show the gateway's accounts, admit them and give them roles; for its operators.
///
/// Whoever starts the gateway is its first operator.
#[derive(Args)]
pub(crate) struct Account {
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
    /// List all accounts, those that wait first.
    List,
    /// Make an account an operator, or a user again.
    Role {
        /// Its id or address, as `list` shows them.
        who: String,
        /// An operator also admits accounts, gives credits and reads the audit log.
        #[arg(value_name = "operator|user")]
        role: Role,
    },
    /// Let somebody use the gateway who signs in at its OpenID provider.
    Admit {
        /// The account's id or address.
        who: String,
    },
    /// Shut out somebody who signs in at the gateway's OpenID provider; kernels go on until they are stopped.
    Dismiss {
        /// The account's id or address.
        who: String,
    },
}

impl Account {
    /// Runs the action.
    pub(crate) async fn run(self) -> Result<()> {
        let (gateway, _) = self.at.connect().await?;
        let (who, change) = match &self.action {
            Action::List => {
                let accounts = gateway.accounts().await?;
                match self.json {
                    true => println!("{}", json!(accounts)),
                    false => accounts.iter().for_each(|one| println!("{}", line(one))),
                }
                return Ok(());
            }
            Action::Role { who, role } => (
                who,
                AccountChange {
                    role: Some(*role),
                    ..Default::default()
                },
            ),
            Action::Admit { who } => (
                who,
                AccountChange {
                    admitted: Some(true),
                    ..Default::default()
                },
            ),
            Action::Dismiss { who } => (
                who,
                AccountChange {
                    admitted: Some(false),
                    ..Default::default()
                },
            ),
        };
        let changed = gateway.change_account(who, &change).await?;
        match self.json {
            true => println!("{}", json!(changed)),
            false => println!("{}", line(&changed)),
        }
        Ok(())
    }
}

/// `acct_…  operator  admitted  2026-11-30  0x…  Ada at https://id.example`.
fn line(info: &AccountInfo) -> String {
    let day: String = time::hub(info.created).chars().take(10).collect();
    let admitted = if info.admitted { "admitted" } else { "shut out" };
    let linked = info.address.as_deref().filter(|address| *address != info.account);
    let identity = info.label.as_ref().zip(info.issuer.as_ref());
    let mut line = format!(
        "{:<42}  {:<8}  {admitted:<8}  {day}",
        info.account,
        info.role.name()
    );
    for part in [
        linked.map(str::to_owned),
        identity.map(|(label, issuer)| format!("{label} at {issuer}")),
    ]
    .into_iter()
    .flatten()
    {
        line.push_str("  ");
        line.push_str(&part);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_who_it_is_and_what_it_may() {
        let mut info = AccountInfo {
            account: "acct_7a3f09d2b8e14c5f6a7781e2d3905b64".to_owned(),
            address: None,
            role: Role::User,
            by_settings: false,
            admitted: false,
            issuer: Some("https://id.example".to_owned()),
            label: Some("ada".to_owned()),
            created: 86_400,
        };
        let told = line(&info);
        assert!(
            told.contains("user") && told.contains("shut out  1970-01-02"),
            "{told}"
        );
        assert!(told.ends_with("  ada at https://id.example"), "{told}");
        let address = "0x7a3f09d2b8e14c5f6a7781e2d3905b64f1aac41e".to_owned();
        info.address = Some(address.clone());
        assert!(
            line(&info).contains(&format!("  {address}  ada")),
            "{}",
            line(&info)
        );
        info.account = address.clone();
        assert_eq!(line(&info).matches(&address).count(), 1);
    }
}
