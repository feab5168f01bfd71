//! A gateway without a host that could run kernels, over an Aleph node: the tests of models with stock clients need no more.
//!
//! `registry_gateway NODE DATA OPERATOR ADDRESS...` admits these accounts, prints its address and serves until its standard
//! input ends.

mod hostless;

use std::path::PathBuf;

use alephlab_api::Secret;
use alephlab_gateway::Operator;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "registry_gateway NODE DATA OPERATOR ADDRESS...";
    let mut next = || arguments.next().ok_or(usage);
    let (node, data, address) = (next()?, PathBuf::from(next()?), next()?);
    let operator = Operator {
        address,
        token: Secret::new(format!("{:032x}", rand::random::<u128>())),
    };
    hostless::run(&data, &node, operator, arguments.collect()).await
}
