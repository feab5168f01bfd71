//! A client of an instance's SSH.

use std::{sync::Arc, time::Duration};

use russh::{
    ChannelMsg,
    client::{self, Handle},
    keys::{Algorithm, PrivateKey, PrivateKeyWithHashAlg, PublicKeyOrCertificate},
};

/// How long a command may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// Takes any host: it is new at each first boot.
struct Anybody;

impl client::Handler for Anybody {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _key: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        Ok(true)
    }
}

/// What a command said.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) status: Option<u32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

impl Said {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.stdout.clone()).unwrap().trim().to_owned()
    }
}

/// A connection whose key was taken.
pub(crate) struct Ssh(Handle<Anybody>);

pub(crate) fn new_key() -> PrivateKey {
    PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).unwrap()
}

pub(crate) fn line_of(key: &PrivateKey) -> String {
    key.public_key().to_openssh().unwrap()
}

impl Ssh {
    /// `None` when the key is refused.
    pub(crate) async fn open(port: u16, account: &str, key: &PrivateKey) -> Option<Self> {
        let config = Arc::new(client::Config::default());
        let mut handle = client::connect(config, ("127.0.0.1", port), Anybody)
            .await
            .unwrap();
        let key = PrivateKeyWithHashAlg::new(Arc::new(key.clone()), None);
        let answer = handle.authenticate_publickey(account, key).await.unwrap();
        answer.success().then_some(Self(handle))
    }

    pub(crate) async fn is_open_by_password(port: u16, password: &str) -> bool {
        let config = Arc::new(client::Config::default());
        let mut handle = client::connect(config, ("127.0.0.1", port), Anybody)
            .await
            .unwrap();
        let answer = handle.authenticate_password("root", password).await;
        answer.is_ok_and(|answer| answer.success())
    }

    pub(crate) async fn run(&self, command: &str) -> Said {
        self.run_with(command, b"").await
    }

    /// Runs a command with this standard input.
    pub(crate) async fn run_with(&self, command: &str, input: &[u8]) -> Said {
        let talk = async {
            let channel = self.0.channel_open_session().await.unwrap();
            channel.exec(true, command).await.unwrap();
            let (mut reader, writer) = channel.split();
            let send = async {
                writer.data(input).await.unwrap();
                writer.eof().await.unwrap();
            };
            let receive = async {
                let mut said = Said::default();
                while let Some(message) = reader.wait().await {
                    match message {
                        ChannelMsg::Data { data } => said.stdout.extend(&*data),
                        ChannelMsg::ExtendedData { data, ext: 1 } => said.stderr.extend(&*data),
                        ChannelMsg::ExitStatus { exit_status } => said.status = Some(exit_status),
                        _ => {}
                    }
                }
                said
            };
            tokio::join!(send, receive).1
        };
        tokio::time::timeout(DEADLINE, talk)
            .await
            .expect("the command did not end in time")
    }

    /// Whether a shell is given.
    pub(crate) async fn gives_a_shell(&self) -> bool {
        let mut channel = self.0.channel_open_session().await.unwrap();
        channel.request_shell(true).await.unwrap();
        let answer = tokio::time::timeout(DEADLINE, channel.wait()).await.unwrap();
        matches!(answer, Some(ChannelMsg::Success))
    }
}
