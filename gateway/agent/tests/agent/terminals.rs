//! Terminals: a real shell in a pseudoterminal of the agent.

use std::collections::BTreeMap;

use alephlab_api::agent::{
    FromAgent, HeldTerminal, TERMINAL_KEPT, TERMINAL_WINDOW, ToAgent, WindowSize, decode, encode, number,
};
use alephlab_api::kernel::KernelState;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio_tungstenite::tungstenite::Message;
use uuid::Uuid;

use crate::world::{DEADLINE, Gateway, World, echo, gone};

/// A terminal as the gateway sees it.
struct Terminal {
    id: Uuid,
    text: String,
    /// Bytes that came.
    end: u64,
    took: u64,
    ended: Option<Option<String>>,
}

impl Terminal {
    async fn open(gateway: &mut Gateway) -> Self {
        let id = Uuid::new_v4();
        let order = ToAgent::OpenTerminal {
            terminal_id: id,
            cwd: Some("mine".to_owned()),
            home: None,
            env: BTreeMap::from([("GIVEN".to_owned(), "by the gateway".to_owned())]),
            size: WindowSize { rows: 24, cols: 80 },
        };
        order_raw(gateway, &order, b"").await;
        let mut terminal = Self {
            id,
            text: String::new(),
            end: 0,
            took: 0,
            ended: None,
        };
        // Whatever its prompt is elsewhere.
        terminal
            .say(
                gateway,
                "PS1='> '; bind 'set enable-bracketed-paste off' 2>&-; echo re''ady\r",
            )
            .await;
        terminal.until(gateway, "ready\r\n> ").await;
        terminal
    }

    async fn say(&self, gateway: &mut Gateway, typed: &str) {
        let order = ToAgent::TerminalInput { terminal_id: self.id };
        order_raw(gateway, &order, typed.as_bytes()).await;
    }

    /// Takes one frame of this terminal, in order.
    async fn step(&mut self, gateway: &mut Gateway) {
        let (said, bytes) = frame(gateway).await;
        match said {
            FromAgent::TerminalOutput { terminal_id, offset } if terminal_id == self.id => {
                assert_eq!(offset, self.end, "nothing is lost or comes twice");
                self.end += bytes.len() as u64;
                self.text += &String::from_utf8_lossy(&bytes);
            }
            FromAgent::TerminalTook { terminal_id, input } if terminal_id == self.id => self.took = input,
            FromAgent::TerminalEnded { terminal_id, reason } if terminal_id == self.id => {
                self.ended = Some(reason);
            }
            _ => {}
        }
    }

    /// Reads, and says so, until a text has come; forgets what came until then.
    async fn until(&mut self, gateway: &mut Gateway, wanted: &str) -> String {
        loop {
            if let Some(at) = self.text.find(wanted) {
                let rest = self.text.split_off(at + wanted.len());
                return std::mem::replace(&mut self.text, rest);
            }
            assert_eq!(self.ended, None, "{}", self.text);
            self.step(gateway).await;
            self.taken(gateway).await;
        }
    }

    async fn taken(&self, gateway: &mut Gateway) {
        let (terminal_id, taken) = (self.id, self.end);
        gateway.tell(&ToAgent::TerminalTaken { terminal_id, taken }).await;
    }

    async fn until_ended(&mut self, gateway: &mut Gateway) -> Option<String> {
        loop {
            if let Some(reason) = self.ended.take() {
                return reason;
            }
            self.step(gateway).await;
            self.taken(gateway).await;
        }
    }
}

async fn order_raw(gateway: &mut Gateway, order: &ToAgent, part: &[u8]) {
    gateway.ordered += 1;
    let mut frame = encode(order, &[part]).unwrap();
    number(&mut frame, gateway.ordered);
    gateway.socket.send(Message::binary(frame)).await.unwrap();
}

async fn frame(gateway: &mut Gateway) -> (FromAgent, Vec<u8>) {
    loop {
        let message = tokio::time::timeout(DEADLINE, gateway.socket.next())
            .await
            .expect("a frame in time");
        if let Message::Binary(frame) = message.expect("an open socket").unwrap() {
            let (_, said, parts) = decode(&frame).unwrap();
            return (
                said,
                parts
                    .first()
                    .map(|part| frame[part.clone()].to_vec())
                    .unwrap_or_default(),
            );
        }
    }
}

async fn world() -> (World, Gateway) {
    let world = World::start(echo()).await;
    std::fs::create_dir(world.folder.path().join("work/mine")).unwrap();
    let gateway = world.accept().await;
    (world, gateway)
}

#[tokio::test]
async fn a_shell_runs_in_its_folder_with_a_terminal_and_no_more_of_the_environment_than_it_needs() {
    let (world, mut gateway) = world().await;
    let mut terminal = Terminal::open(&mut gateway).await;
    terminal
        .say(
            &mut gateway,
            "pwd; tty; echo $TERM,$GIVEN,${CARGO_MANIFEST_DIR-none}.\r",
        )
        .await;
    let said = terminal.until(&mut gateway, "none.\r\n> ").await;
    let folder = world.folder.path().join("work/mine");
    assert!(
        said.contains(folder.to_str().unwrap()) && said.contains("/dev/pts/"),
        "{said}"
    );
    assert!(said.contains("xterm-256color,by the gateway,none."), "{said}");
    assert!(
        std::env::var("CARGO_MANIFEST_DIR").is_ok(),
        "the agent has what its shells have not"
    );
}

#[tokio::test]
async fn its_window_has_the_size_that_was_ordered() {
    let (_world, mut gateway) = world().await;
    let mut terminal = Terminal::open(&mut gateway).await;
    terminal.say(&mut gateway, "stty size\r").await;
    terminal.until(&mut gateway, "24 80\r\n> ").await;
    let size = WindowSize { rows: 33, cols: 120 };
    let order = ToAgent::TerminalSize {
        terminal_id: terminal.id,
        size,
    };
    order_raw(&mut gateway, &order, b"").await;
    terminal.say(&mut gateway, "stty size\r").await;
    terminal.until(&mut gateway, "33 120\r\n> ").await;
}

#[tokio::test]
async fn what_writes_for_ever_waits_for_its_reader_and_is_interrupted() {
    let (world, mut gateway) = world().await;
    let mut terminal = Terminal::open(&mut gateway).await;
    let before = terminal.end;
    terminal.say(&mut gateway, "yes\r").await;
    while terminal.end < before + TERMINAL_WINDOW {
        // Read, and nobody is told.
        terminal.step(&mut gateway).await;
    }
    assert_eq!(
        terminal.end,
        before + TERMINAL_WINDOW,
        "no more than there is room for"
    );
    // A kernel is not behind it: its states come, and not one byte of the terminal.
    let kernel = Uuid::new_v4();
    crate::world::start(&mut gateway, kernel).await;
    loop {
        match frame(&mut gateway).await.0 {
            FromAgent::TerminalOutput { .. } => panic!("there is no room"),
            FromAgent::State {
                state: KernelState::Idle,
                ..
            } => break,
            _ => {}
        }
    }
    terminal.taken(&mut gateway).await;
    terminal.say(&mut gateway, "\x03").await;
    terminal.until(&mut gateway, "^C").await;
    terminal.say(&mut gateway, "echo al''ive\r").await;
    terminal.until(&mut gateway, "alive\r\n").await;
    drop(world);
}

#[tokio::test]
async fn goes_on_while_the_gateway_is_away_and_keeps_the_newest() {
    let (world, mut gateway) = world().await;
    let mut terminal = Terminal::open(&mut gateway).await;
    terminal
        .say(
            &mut gateway,
            "read; head -c 1000000 /dev/zero | tr '\\0' x; echo do''ne > done; cat done\r",
        )
        .await;
    terminal.until(&mut gateway, "cat done\r\n").await;
    let input = terminal.took;
    let ordered = gateway.ordered;
    terminal.say(&mut gateway, "\r").await;
    // It has come when its frame has.
    while terminal.took <= input {
        terminal.step(&mut gateway).await;
    }
    drop(gateway);
    let (file, deadline) = (
        world.folder.path().join("work/mine/done"),
        tokio::time::Instant::now() + DEADLINE,
    );
    while !file.exists() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "nobody reads, and it goes on"
        );
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    // Another run of the gateway, which knows the terminal and has nothing of it. The terminal itself may hold some pages
    // that the agent has not read yet: only after the last of them is what the agent keeps one exact piece.
    for read in 0..2 {
        let mut gateway = world.hello(Uuid::new_v4()).await;
        // Orders are counted for each run of the gateway anew.
        let obeyed = if read == 0 { ordered + 1 } else { 0 };
        assert_eq!(gateway.received.unwrap().number, obeyed);
        let held: Vec<HeldTerminal> = std::mem::take(&mut gateway.terminals);
        assert_eq!(
            (held.len(), held[0].terminal_id, held[0].input),
            (1, terminal.id, terminal.took)
        );
        let resume = ToAgent::Resume {
            kernels: BTreeMap::new(),
            terminals: [(terminal.id, 0)].into(),
        };
        gateway.tell(&resume).await;
        let (FromAgent::TerminalOutput { offset, .. }, first) = frame(&mut gateway).await else {
            panic!("output comes first")
        };
        terminal.end = offset + first.len() as u64;
        assert!(offset > 700_000, "{offset}");
        terminal.text.clear();
        let rest = terminal.until(&mut gateway, "done\r\n> ").await;
        if read == 1 {
            assert_eq!(first.len() + rest.len(), TERMINAL_KEPT);
        }
        drop(gateway);
    }
    let mut gateway = world.hello(Uuid::new_v4()).await;
    let resume = ToAgent::Resume {
        kernels: BTreeMap::new(),
        terminals: [(terminal.id, terminal.end)].into(),
    };
    gateway.tell(&resume).await;
    terminal.say(&mut gateway, "echo st''ill\r").await;
    terminal.until(&mut gateway, "still\r\n").await;
}

#[tokio::test]
async fn ends_with_its_shell_and_says_so_on_each_connection_until_it_is_closed() {
    let (world, mut gateway) = world().await;
    let mut terminal = Terminal::open(&mut gateway).await;
    terminal.say(&mut gateway, "echo b''ye; exit\r").await;
    assert_eq!(terminal.until_ended(&mut gateway).await, None);
    assert!(terminal.text.contains("bye"), "{}", terminal.text);
    drop(gateway);
    let mut gateway = world.hello(world.run).await;
    let resume = ToAgent::Resume {
        kernels: BTreeMap::new(),
        terminals: [(terminal.id, terminal.end)].into(),
    };
    gateway.ordered = gateway.received.unwrap().number;
    gateway.tell(&resume).await;
    assert_eq!(terminal.until_ended(&mut gateway).await, None);
    order_raw(
        &mut gateway,
        &ToAgent::CloseTerminal {
            terminal_id: terminal.id,
        },
        b"",
    )
    .await;
    // Obeyed when the next one is.
    Terminal::open(&mut gateway).await;
    drop(gateway);
    let held = world.hello(world.run).await.terminals;
    assert!(held.iter().all(|held| held.terminal_id != terminal.id));
}

/// Process ids of a shell, of a job that heeds no hang-up, and of one in the foreground.
async fn jobs(terminal: &mut Terminal, gateway: &mut Gateway) -> Vec<u32> {
    let script = "(trap '' HUP; exec sleep 1000) & echo pids $$ $! .; sleep 1001\r";
    terminal.say(gateway, script).await;
    let said = terminal.until(gateway, " .\r\n").await;
    let pids = said.rsplit_once("pids ").unwrap().1;
    pids.split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect()
}

#[tokio::test]
async fn a_terminal_that_is_closed_leaves_nothing() {
    let (world, mut gateway) = world().await;
    let mut terminal = Terminal::open(&mut gateway).await;
    let pids = jobs(&mut terminal, &mut gateway).await;
    assert_eq!(pids.len(), 2);
    order_raw(
        &mut gateway,
        &ToAgent::CloseTerminal {
            terminal_id: terminal.id,
        },
        b"",
    )
    .await;
    for pid in pids {
        gone(pid).await;
    }
    drop(world);
}

#[tokio::test]
async fn terminals_that_the_gateway_does_not_name_are_closed() {
    let (world, mut gateway) = world().await;
    let mut terminal = Terminal::open(&mut gateway).await;
    let pids = jobs(&mut terminal, &mut gateway).await;
    drop(gateway);
    let _gateway = world.accept().await;
    for pid in pids {
        gone(pid).await;
    }
}

#[tokio::test]
async fn an_agent_that_ends_leaves_no_shell_and_no_job() {
    let (mut world, mut gateway) = world().await;
    let mut terminal = Terminal::open(&mut gateway).await;
    let pids = jobs(&mut terminal, &mut gateway).await;
    // The gateway held the other end of the agent's input.
    drop(world.agent.stdin.take());
    for pid in pids {
        gone(pid).await;
    }
    let ended = tokio::time::timeout(DEADLINE, world.agent.wait()).await;
    ended.expect("the agent ends").unwrap();
}

#[tokio::test]
async fn a_killed_agent_leaves_no_shell() {
    let (mut world, mut gateway) = world().await;
    let mut terminal = Terminal::open(&mut gateway).await;
    let [shell, job] = jobs(&mut terminal, &mut gateway).await[..] else {
        panic!("a shell and its job")
    };
    world.agent.start_kill().unwrap();
    gone(shell).await;
    // It does not hear the hang-up, so nobody else ends it.
    let pid = rustix::process::Pid::from_raw(i32::try_from(job).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    gone(job).await;
}
