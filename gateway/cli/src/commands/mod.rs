//! The command line: one file per command, and what all of them share.

mod account;
mod at_gateway;
mod attest;
mod audit;
mod config;
mod confirm;
mod dataset;
mod doctor;
mod funds;
mod host;
mod hub;
mod kernel;
mod keys;
mod lab;
mod model;
mod outside;
mod quickstart;
mod receipt;
mod registry;
mod run;
mod secret;
mod share;
mod token;
mod up;
mod wallet;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::error::Result;
use crate::settings::Flags;

/// Rust notebooks on encrypted data: a Jupyter kernel, a gateway, and the keys to it all on your own machine.
#[derive(Parser)]
#[command(name = "alephlab", version, max_term_width = 110, propagate_version = true)]
#[command(
    after_help = "Settings: defaults < alephlab.toml in the data folder < alephlab.toml here < \
                        ALEPHLAB__SECTION__KEY < flags; see `alephlab config show`.\n\
                        ALEPHLAB_LOG sets the level of DATA/logs/alephlab.log."
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// Chooses the data folder.
#[derive(Args, Clone)]
pub(crate) struct DataFlag {
    /// Folder of accounts, local Aleph node, database and logs [default: $XDG_DATA_HOME/alephlab].
    #[arg(long, value_name = "DIR", global = true)]
    data: Option<PathBuf>,
}

impl DataFlag {
    fn flags(&self) -> Flags {
        Flags {
            data: self.data.clone(),
            ..Flags::default()
        }
    }
}

/// Chooses the gateway.
#[derive(Args, Clone)]
pub(crate) struct GatewayFlag {
    /// URL of the gateway [default: the running `alephlab up` of this data folder].
    #[arg(long, value_name = "URL", global = true)]
    gateway: Option<String>,
    /// Send tokens to an http:// gateway even outside this machine and its private networks.
    #[arg(long, global = true)]
    insecure_http: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Do the whole job once, on real parts: encrypt a dataset, train on it, publish, share, pull.
    Quickstart(quickstart::Quickstart),
    /// Start the gateway, the local Aleph node and this machine as host, and stay.
    Up(up::Up),
    /// Run a notebook headlessly and write its outputs into it.
    Run(run::Run),
    /// Install, start or remove the Jupyter kernel.
    Kernel(kernel::Kernel),
    /// Serve JupyterLab itself from the gateway.
    Lab(lab::Lab),
    /// Make and show accounts.
    Wallet(wallet::Wallet),
    /// Encrypt folders, upload them, and say who may read them.
    Dataset(dataset::Dataset),
    /// Publish, pull, share and verify models.
    Model(model::ModelCommand),
    /// Serve the Hugging Face Hub's routes on this machine: stock clients publish and download sealed models.
    Hub(hub::Hub),
    /// Answer requests of kernels to open datasets and sign models with this machine's keys.
    Keys(keys::Keys),
    /// Rent hosts for kernels, and list what can be and is rented.
    Host(host::Host),
    /// Show and check what an account was charged.
    Receipt(receipt::Receipt),
    /// Store keys of other services at the gateway, for notebooks to read by name.
    Secret(secret::Secret),
    /// Share a model of yours by UUID and token.
    Share(share::Share),
    /// Build the gateway's registry of models anew from what is on Aleph.
    Registry(registry::Registry),
    /// Make and end the access tokens of an account's programs.
    Token(token::Token),
    /// Show the gateway's accounts, admit them and give them roles.
    Account(account::Account),
    /// Show and check the gateway's log of sign-ins, tokens and credits.
    Audit(audit::Audit),
    /// Check the evidence of a measured VM, from files.
    Attest(attest::Attest),
    /// Show settings and where they come from.
    Config(config::Config),
    /// Say what is missing on this machine and how to fix it.
    Doctor(doctor::Doctor),
    /// Print a shell's completions, for its start file.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

impl Arguments {
    /// Runs the chosen command.
    pub(crate) async fn run(self) -> Result<ExitCode> {
        let done = |()| ExitCode::SUCCESS;
        match self.command {
            Command::Quickstart(command) => Box::pin(command.run()).await.map(done),
            Command::Up(command) => Box::pin(command.run()).await.map(done),
            Command::Run(command) => Box::pin(command.run()).await.map(done),
            Command::Kernel(command) => command.run().await,
            Command::Lab(command) => command.run().await.map(done),
            Command::Wallet(command) => command.run().await.map(done),
            Command::Dataset(command) => Box::pin(command.run()).await.map(done),
            Command::Model(command) => Box::pin(command.run()).await,
            Command::Hub(command) => Box::pin(command.run()).await.map(done),
            Command::Keys(command) => command.run().await.map(done),
            Command::Host(command) => command.run().await.map(done),
            Command::Receipt(command) => command.run().await.map(done),
            Command::Secret(command) => command.run().await.map(done),
            Command::Share(command) => command.run().await.map(done),
            Command::Registry(command) => command.run().await.map(done),
            Command::Token(command) => command.run().await.map(done),
            Command::Account(command) => command.run().await.map(done),
            Command::Audit(command) => command.run().await.map(done),
            Command::Attest(command) => command.run(),
            Command::Config(command) => command.run().map(done),
            Command::Doctor(command) => command.run().await,
            Command::Completions { shell } => {
                let mut command = Self::command();
                clap_complete::generate(shell, &mut command, "alephlab", &mut std::io::stdout());
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_and_option_has_a_help_text() {
        fn check(command: &clap::Command) {
            for argument in command.get_arguments() {
                assert!(
                    argument.get_help().is_some(),
                    "{} {}",
                    command.get_name(),
                    argument.get_id()
                );
            }
            for inner in command
                .get_subcommands()
                .filter(|inner| inner.get_name() != "help")
            {
                assert!(inner.get_about().is_some(), "{}", inner.get_name());
                check(inner);
            }
        }
        let mut command = Arguments::command();
        command.build();
        check(&command);
    }
}
