//! Terminals of accounts: whose they are, what they put out last, and orders to the agent that has their shells.
//!
//! A terminal is open on the host of the lease under which it was opened, and ends with that. The newest output is kept here,
//! for a page that is loaded again; a gateway that takes a host over gets it from the agent. Not here: HTTP, WebSockets.

mod screen;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use alephlab_api::agent::{HeldTerminal, ToAgent, WindowSize};
use alephlab_api::time;
use axum::http::StatusCode;
use tokio::sync::watch;
use url::Url;
use uuid::Uuid;

use crate::contents::Contents;
use crate::error::{GatewayError, Result};
use crate::host::{Hosts, Lease};
use crate::kernels::Kernels;
use crate::store::{Store, StoredTerminal};
use screen::{FIRST_SIZE, Screen};

/// Terminals of one account at the same time.
const MAX_TERMINALS: usize = 8;
/// Longest name.
const MAX_NAME: usize = 64;
/// Input that may be on its way to a program that does not read, and bytes of one order.
const INPUT_WINDOW: u64 = 256 << 10;
const INPUT: usize = 32 << 10;
/// How often it is looked whether accounts still have what their terminals need.
const TIDY: Duration = Duration::from_secs(30);

/// One terminal that is open.
pub(crate) struct Terminal {
    id: Uuid,
    account: String,
    pub(crate) name: String,
    lease: Arc<Lease>,
    /// An earlier run of the gateway opened it, and its host has not said yet that it has it.
    is_doubtful: AtomicBool,
    /// Microseconds since 1970.
    activity: AtomicU64,
    screen: Mutex<Screen>,
    /// Bytes of input that were sent. One sends at a time.
    sent: tokio::sync::Mutex<u64>,
    /// Bytes of input that the shell has got.
    took: watch::Sender<u64>,
    /// Why it ended, if there is something to say.
    ended: OnceLock<Option<String>>,
    changed: watch::Sender<u64>,
}

/// What a connection is to do next.
pub(crate) enum Step {
    /// Show this, which ends at that place.
    Output(String, u64),
    /// All was shown, and no more comes.
    Ended(Option<String>),
    /// Nothing yet.
    Wait,
}

impl Terminal {
    fn new(stored: StoredTerminal, lease: &Arc<Lease>, is_doubtful: bool) -> Self {
        let terminal = Self {
            id: stored.id,
            account: stored.account,
            name: stored.name,
            lease: Arc::clone(lease),
            is_doubtful: AtomicBool::new(is_doubtful),
            activity: AtomicU64::new(0),
            screen: Mutex::default(),
            sent: tokio::sync::Mutex::default(),
            took: watch::Sender::new(0),
            ended: OnceLock::new(),
            changed: watch::Sender::new(0),
        };
        terminal.touch();
        terminal
    }

    pub(crate) fn last_activity(&self) -> String {
        time::format(UNIX_EPOCH + Duration::from_micros(self.activity.load(Ordering::Relaxed)))
    }

    fn touch(&self) {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_micros();
        self.activity
            .store(u64::try_from(now).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Tells connections that there is something new.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn change(&self) {
        self.changed.send_modify(|changes| *changes += 1);
    }

    /// Somebody looks at it from now on.
    pub(crate) fn attach(&self) -> u64 {
        self.screen().attach()
    }

    pub(crate) async fn detach(&self, viewer: u64) {
        let size = self.screen().detach(viewer);
        self.lease.notes.notify_one();
        if let Some(size) = size {
            self.resized(size).await;
        }
    }

    /// What this viewer has not seen.
    pub(crate) fn next(&self, viewer: u64) -> Step {
        // Looked at first: no output comes after an end.
        let ended = self.ended.get();
        match (self.screen().next(viewer, ended.is_some()), ended) {
            (Some((text, place)), _) => Step::Output(text, place),
            (None, Some(reason)) => Step::Ended(reason.clone()),
            (None, None) => Step::Wait,
        }
    }

    /// This viewer has it all up to a place.
    pub(crate) fn delivered(&self, viewer: u64, place: u64) {
        self.screen().delivered(viewer, place);
        self.lease.notes.notify_one();
    }

    /// Passes on what was typed, as fast as it is read.
    pub(crate) async fn input(&self, text: &str) -> Result<()> {
        self.touch();
        let mut sent = self.sent.lock().await;
        let mut took = self.took.subscribe();
        for part in text.as_bytes().chunks(INPUT) {
            let room = took.wait_for(|took| sent.saturating_sub(*took) < INPUT_WINDOW);
            // The sender is this terminal's own.
            drop(room.await);
            let order = ToAgent::TerminalInput { terminal_id: self.id };
            self.lease.send(&order, &[part]).await?;
            *sent += u64::try_from(part.len()).unwrap_or_default();
        }
        Ok(())
    }

    /// This viewer's window has another size.
    pub(crate) async fn resize(&self, viewer: u64, size: WindowSize) {
        let size = self.screen().resize(viewer, size);
        if let Some(size) = size {
            self.resized(size).await;
        }
    }

    async fn resized(&self, size: WindowSize) {
        let terminal_id = self.id;
        self.order(&ToAgent::TerminalSize { terminal_id, size }).await;
    }

    async fn order(&self, order: &ToAgent) {
        if let Err(error) = self.lease.send::<&[u8]>(order, &[]).await {
            tracing::debug!(terminal = %self.id, %error, "an order to a terminal was left out");
        }
    }

    fn end(&self, reason: Option<String>) {
        let _ = self.ended.set(reason);
        self.change();
    }

    fn screen(&self) -> MutexGuard<'_, Screen> {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All terminals that are open.
pub(crate) struct Terminals {
    are_allowed: bool,
    store: Store,
    contents: Contents,
    hosts: Arc<Hosts>,
    url: String,
    open: Mutex<BTreeMap<Uuid, Arc<Terminal>>>,
    /// Held from the look at which names are free until one is taken.
    opening: tokio::sync::Mutex<()>,
}

impl Terminals {
    pub(crate) fn new(
        are_allowed: bool,
        (store, contents): (Store, Contents),
        hosts: &Arc<Hosts>,
        url: &Url,
    ) -> Self {
        Self {
            are_allowed,
            store,
            contents,
            hosts: Arc::clone(hosts),
            url: url.to_string(),
            open: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
        }
    }

    /// Whether this gateway has terminals at all.
    pub(crate) fn are_allowed(&self) -> bool {
        self.are_allowed
    }

    fn allow(&self) -> Result<()> {
        if self.are_allowed {
            return Ok(());
        }
        let message = "this gateway has no terminals";
        Err(
            GatewayError::refused(StatusCode::FORBIDDEN, "terminals_off", message)
                .with_hint("its operator sets gateway.terminals = true"),
        )
    }

    /// Takes over the terminals of a lease that goes on.
    pub(crate) async fn adopt(&self, lease: &Arc<Lease>) -> Result<()> {
        for stored in self.store.terminals_of(lease.id).await? {
            if self.are_allowed {
                let terminal = Arc::new(Terminal::new(stored, lease, true));
                self.open().insert(terminal.id, terminal);
            } else {
                // Its agent closes what the gateway does not name.
                self.store.remove_terminal(stored.id).await?;
            }
        }
        Ok(())
    }

    /// An account's terminals, by name.
    pub(crate) fn of(&self, account: &str) -> Vec<Arc<Terminal>> {
        let open = self.open();
        let own = open.values().filter(|terminal| terminal.account == account);
        let mut own: Vec<_> = own.cloned().collect();
        own.sort_by(|one, other| (one.name.len(), &one.name).cmp(&(other.name.len(), &other.name)));
        own
    }

    pub(crate) fn get(&self, account: &str, name: &str) -> Result<Arc<Terminal>> {
        self.allow()?;
        let mut own = self.of(account).into_iter();
        own.find(|terminal| terminal.name == name)
            .ok_or_else(|| GatewayError::not_found("terminal_unknown", "there is no such terminal"))
    }

    /// Opens a terminal in a folder of the account's files; a name that the account has already gives that one.
    pub(crate) async fn start(
        &self,
        account: &str,
        name: Option<String>,
        cwd: Option<String>,
    ) -> Result<Arc<Terminal>> {
        self.allow()?;
        let _one = self.opening.lock().await;
        let own = self.of(account);
        let asked = name.filter(|name| !name.is_empty()).map(checked).transpose()?;
        let has = |name: &str| own.iter().find(|terminal| terminal.name == name);
        if let Some(terminal) = asked.as_deref().and_then(has) {
            return Ok(Arc::clone(terminal));
        }
        if own.len() >= MAX_TERMINALS {
            let message = format!("this account has {MAX_TERMINALS} terminals; close one first");
            let status = StatusCode::TOO_MANY_REQUESTS;
            return Err(GatewayError::refused(status, "terminals_limit", message));
        }
        let free = || {
            (1..)
                .map(|number: u32| number.to_string())
                .find(|name| has(name).is_none())
        };
        let (lease, home) = (self.connected()?, self.contents.home_of(account)?);
        let stored = StoredTerminal {
            id: Uuid::new_v4(),
            account: account.to_owned(),
            name: asked.or_else(free).unwrap_or_default(),
        };
        self.store.add_terminal(lease.id, &stored).await?;
        let terminal = Arc::new(Terminal::new(stored, &lease, false));
        self.open().insert(terminal.id, Arc::clone(&terminal));
        let order = ToAgent::OpenTerminal {
            terminal_id: terminal.id,
            cwd: self.folder(account, cwd).await,
            home: Some(home),
            env: BTreeMap::from([("JUPYTER_SERVER_URL".to_owned(), self.url.clone())]),
            size: FIRST_SIZE,
        };
        if let Err(error) = lease.send::<&[u8]>(&order, &[]).await {
            self.forget(&terminal, None).await;
            return Err(error);
        }
        Ok(terminal)
    }

    /// The lease whose host is there now: nobody waits at a terminal for one that is not.
    fn connected(&self) -> Result<Arc<Lease>> {
        let lease = self.hosts.lease()?;
        if lease.machine().is_some() {
            return Ok(lease);
        }
        let reason = self.hosts.trouble();
        Err(GatewayError::Host {
            reason: reason.unwrap_or_else(|| "its agent is not connected".to_owned()),
        })
    }

    async fn folder(&self, account: &str, cwd: Option<String>) -> Option<String> {
        let (contents, account) = (self.contents.clone(), account.to_owned());
        let folder = move || contents.terminals_folder(&account, cwd.as_deref().unwrap_or_default());
        tokio::task::spawn_blocking(folder).await.ok().flatten()
    }

    /// Ends a terminal.
    pub(crate) async fn close(&self, account: &str, name: &str) -> Result<()> {
        let terminal = self.get(account, name)?;
        self.forget(&terminal, None).await;
        Ok(())
    }

    /// It is over, for clients and for its agent.
    async fn forget(&self, terminal: &Terminal, reason: Option<String>) {
        if self.open().remove(&terminal.id).is_none() {
            return;
        }
        terminal.end(reason);
        if let Err(error) = self.store.remove_terminal(terminal.id).await {
            tracing::error!(terminal = %terminal.id, %error, "the end of a terminal could not be written");
        }
        let terminal_id = terminal.id;
        terminal.order(&ToAgent::CloseTerminal { terminal_id }).await;
    }

    /// Ends terminals of accounts that have no kernel any more, where kernels cost something.
    pub(crate) async fn tidy(&self, kernels: &Kernels) {
        let mut tick = tokio::time::interval(TIDY);
        loop {
            tick.tick().await;
            for terminal in self.all() {
                if !kernels.has_allocation(&terminal.account) {
                    let reason = "its account has no kernel that runs".to_owned();
                    self.forget(&terminal, Some(reason)).await;
                }
            }
        }
    }

    fn all(&self) -> Vec<Arc<Terminal>> {
        self.open().values().cloned().collect()
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<Uuid, Arc<Terminal>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What agents report.
impl Terminals {
    fn on(&self, (lease, terminal): (Uuid, Uuid)) -> Option<Arc<Terminal>> {
        let terminal = self.open().get(&terminal).cloned();
        terminal.filter(|terminal| terminal.lease.id == lease)
    }

    /// A connection begins whose agent has these: gives what the gateway has of each that it knows.
    pub(crate) async fn agent_knows(&self, lease: Uuid, held: &[HeldTerminal]) -> BTreeMap<Uuid, u64> {
        let mut known = BTreeMap::new();
        for terminal in self.all().into_iter().filter(|one| one.lease.id == lease) {
            let held = held.iter().find(|held| held.terminal_id == terminal.id);
            let was_doubtful = terminal.is_doubtful.swap(false, Ordering::Relaxed);
            match held {
                None if was_doubtful => {
                    let reason = "the gateway was restarted".to_owned();
                    self.forget(&terminal, Some(reason)).await;
                    continue;
                }
                Some(held) if was_doubtful => {
                    *terminal.sent.lock().await = held.input;
                    terminal.took.send_replace(held.input);
                }
                _ => {}
            }
            let mut screen = terminal.screen();
            screen.retell();
            known.insert(terminal.id, screen.end());
        }
        known
    }

    /// What the agent of a lease does not know yet of who has read how far.
    pub(crate) fn notes(&self, lease: Uuid) -> Vec<ToAgent> {
        let terminals = self.all().into_iter().filter(|one| one.lease.id == lease);
        let note = |terminal: Arc<Terminal>| {
            let taken = terminal.screen().untold()?;
            Some(ToAgent::TerminalTaken {
                terminal_id: terminal.id,
                taken,
            })
        };
        terminals.filter_map(note).collect()
    }

    /// A terminal put something out.
    pub(crate) fn output_came(&self, place: (Uuid, Uuid), offset: u64, bytes: &[u8]) {
        let Some(terminal) = self.on(place) else { return };
        terminal.screen().accept(offset, bytes);
        terminal.touch();
        terminal.change();
        terminal.lease.notes.notify_one();
    }

    /// A shell has got input.
    pub(crate) fn took(&self, place: (Uuid, Uuid), input: u64) {
        if let Some(terminal) = self.on(place) {
            terminal.took.send_modify(|took| *took = input.max(*took));
        }
    }

    /// A terminal is over.
    pub(crate) async fn ended(&self, place: (Uuid, Uuid), reason: Option<String>) {
        if let Some(terminal) = self.on(place) {
            self.forget(&terminal, reason.map(|reason| bounded(&reason)))
                .await;
        }
    }

    /// A host is gone with its terminals.
    pub(crate) async fn lease_ended(&self, lease: Uuid, reason: &str) {
        for terminal in self.all().into_iter().filter(|one| one.lease.id == lease) {
            self.open().remove(&terminal.id);
            terminal.end(Some(reason.to_owned()));
            if let Err(error) = self.store.remove_terminal(terminal.id).await {
                tracing::error!(terminal = %terminal.id, %error, "the end of a terminal could not be written");
            }
        }
    }
}

/// A name as Jupyter's servers route it.
fn checked(name: String) -> Result<String> {
    let is_good = name.len() <= MAX_NAME && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if is_good {
        return Ok(name);
    }
    let message = "a terminal's name is at most 64 letters, digits and _";
    Err(GatewayError::bad_request("terminal_name", message))
}

/// A reason as it is shown: a host is not believed to send text only.
fn bounded(reason: &str) -> String {
    let printed = reason.chars().filter(|c| !c.is_control());
    printed.take(1000).collect()
}
