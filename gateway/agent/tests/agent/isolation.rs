//! What a kernel in its sandbox can reach, tried by scripts that are the kernel; what holds it to its limits; and that all of it
//! ends.
//!
//! Where bubblewrap does not work these tests fail: a wall that nobody tried is none.

use std::path::{Path, PathBuf};
use std::time::Duration;

use alephlab_api::Secret;
use alephlab_api::agent::{ToAgent, WindowSize};
use alephlab_api::isolation::{Confinement, Isolation, LimitedBy, Limits};
use alephlab_api::jupyter::Channel;
use alephlab_api::kernel::KernelState;
use serde_json::json;
use tokio::process::Command;
use uuid::Uuid;

use crate::world::{DEADLINE, Gateway, World, echo, heard, say, send, until};

const ACCOUNT: &str = "0xab";

fn walled() -> Confinement {
    Confinement {
        isolation: Isolation::Bubblewrap,
        ..Confinement::default()
    }
}

/// A kernel that is a script: what it says is in the file `said` of its folder once it is done, and then it waits. Its first
/// argument is the connection file.
fn script(text: &str) -> Vec<String> {
    let all = format!("{{ {text}\n}} >part 2>&1; mv part said; exec sleep 1000");
    ["/bin/sh", "-c", &all, "sh", "{connection_file}"]
        .map(str::to_owned)
        .to_vec()
}

struct Walled {
    world: World,
    gateway: Gateway,
    /// The kernel that was started last.
    newest: Uuid,
}

impl Walled {
    async fn start(kernel: Vec<String>, confinement: Confinement) -> Self {
        Self::start_with(kernel, confinement, |_| {}).await
    }

    async fn start_with(
        kernel: Vec<String>,
        confinement: Confinement,
        change: impl FnOnce(&mut Command),
    ) -> Self {
        let world = World::start_confined(kernel, &[], confinement, change).await;
        for account in [ACCOUNT, "0xcd"] {
            std::fs::create_dir(world.folder.path().join("work").join(account)).unwrap();
        }
        let gateway = world.accept().await;
        Self {
            world,
            gateway,
            newest: Uuid::nil(),
        }
    }

    fn home(&self) -> PathBuf {
        self.world.folder.path().join("work").join(ACCOUNT)
    }

    async fn kernel(&mut self) -> Uuid {
        self.kernel_in(&format!("{ACCOUNT}/"), false).await
    }

    /// Starts one that is to work in that folder.
    async fn kernel_in(&mut self, cwd: &str, anywhere: bool) -> Uuid {
        self.kernel_with(cwd, anywhere, &[]).await
    }

    async fn kernel_with(&mut self, cwd: &str, anywhere: bool, env: &[(&str, &str)]) -> Uuid {
        let kernel_id = Uuid::new_v4();
        let env = env
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let order = ToAgent::StartKernel {
            kernel_id,
            name: "alephlab".into(),
            env: env.collect(),
            cwd: Some(cwd.to_owned()),
            home: Some(ACCOUNT.to_owned()),
            anywhere,
            kernel_token: Secret::new("kernel-token"),
            account: "0xAb".into(),
            aleph_url: "http://127.0.0.1:9".into(),
        };
        send(&mut self.gateway, &order, &[]).await;
        self.newest = kernel_id;
        kernel_id
    }

    /// Starts a kernel that is a script, and gives what it said.
    async fn said(&mut self) -> String {
        self.kernel().await;
        let said = self.home().join("said");
        let states = async {
            // A kernel that cannot start says why.
            until(&mut self.gateway, KernelState::Dead).await
        };
        tokio::select! {
            () = appears(&said) => {}
            why = states => panic!("it did not run: {why:?}"),
        }
        std::fs::read_to_string(said).unwrap()
    }
}

async fn appears(path: &Path) {
    let there = async {
        while !path.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, there)
        .await
        .expect("the file appears");
}

/// Processes of the whole machine with that argument.
fn running(argument: &str) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter(|process| {
            let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0)
                .any(|word| word == argument.as_bytes())
        })
        .count()
}

/// Waits until so many run.
async fn number_of(argument: &str, count: usize) {
    let reached = async {
        while running(argument) != count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(DEADLINE, reached).await;
    waited.unwrap_or_else(|_| panic!("{} run, not {count}", running(argument)));
}

/// A number of seconds to sleep that no other process sleeps.
fn seconds() -> String {
    format!("{}", 100_000_000 + u64::from(Uuid::new_v4().as_fields().0))
}

#[tokio::test]
async fn of_the_host_a_cell_sees_its_own_folder_and_nothing_of_the_gateway_or_of_others() {
    let data = tempfile::tempdir().unwrap();
    std::fs::write(data.path().join("wallet.key"), "canary-of-the-gateway").unwrap();
    let confinement = Confinement {
        // Around the folder of this test: what is shown of it must be shown nevertheless.
        hidden: vec![data.path().to_owned(), std::env::temp_dir()],
        ..walled()
    };
    let script = script(&format!(
        r#"cat {data}/wallet.key ../0xcd/notebook.ipynb ../../agent.lock /etc/shadow; ls .. ../..; echo home $HOME
        ls ../../runtime/accounts ../../runtime/compiled; touch ../../runtime/x ../../runtime/compiled/own
        echo mine >mine.txt; ls; ls -d "$HOME"/../../*"#,
        data = data.path().display()
    ));
    let mut walled = Walled::start(script, confinement).await;
    let other = walled.world.folder.path().join("work/0xcd/notebook.ipynb");
    std::fs::write(&other, "canary-of-another").unwrap();
    let compiled = walled.world.folder.path().join("runtime/accounts/0xcd/compiled");
    std::fs::create_dir_all(compiled).unwrap();
    let said = walled.said().await;
    assert!(!said.contains("canary"), "{said}");
    for name in ["wallet.key", "notebook.ipynb", "agent.lock", "shadow"] {
        let refused = format!("{name}: No such file or directory");
        assert!(said.contains(&refused), "{name}: {said}");
    }
    // Not there rather than not readable; and the folder itself is the real one.
    assert!(!said.contains("0xcd\n") && !said.contains("bootstrap"), "{said}");
    assert!(said.contains("runtime/x': Read-only file system"), "{said}");
    let home = walled.home();
    let compiled = walled
        .world
        .folder
        .path()
        .join("runtime/accounts")
        .join(ACCOUNT)
        .join("compiled");
    assert!(compiled.join("own").exists(), "what it compiles is its account's");
    assert!(said.contains(&format!("home {}\n", home.display())), "{said}");
    assert_eq!(std::fs::read_to_string(home.join("mine.txt")).unwrap(), "mine\n");
}

#[tokio::test]
async fn where_a_kernel_works_is_looked_up_once_and_nothing_hidden_is_near_it() {
    let (data, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let confinement = Confinement {
        hidden: vec![data.path().to_owned()],
        ..walled()
    };
    let mut walled = Walled::start(echo(), confinement).await;
    let home = walled.home().canonicalize().unwrap();
    let (data, elsewhere) = (
        data.path().canonicalize().unwrap(),
        elsewhere.path().canonicalize().unwrap(),
    );
    let deep = home.join("deep");
    std::fs::create_dir(&deep).unwrap();
    for (name, target) in [
        ("in", &deep),
        ("out", &home.with_file_name("0xcd")),
        ("data", &data),
    ] {
        std::os::unix::fs::symlink(target, home.join(name)).unwrap();
    }
    for (cwd, anywhere, place) in [
        (home.join("in"), false, &deep),
        (home.join("out"), false, &home),
        (elsewhere.clone(), false, &home),
        (elsewhere.clone(), true, &elsewhere),
        (home.join("data"), true, &home),
        ("/".into(), true, &home),
        ("/proc".into(), true, &home),
    ] {
        let kernel_id = walled.kernel_in(&cwd.to_string_lossy(), anywhere).await;
        until(&mut walled.gateway, KernelState::Idle).await;
        let seen = std::fs::read_to_string(walled.world.folder.path().join("seen.json")).unwrap();
        let seen: serde_json::Value = serde_json::from_str(&seen).unwrap();
        assert_eq!(seen["work_dir"].as_str(), place.to_str(), "{cwd:?} {anywhere}");
        assert_eq!(seen["hidden"][0].as_str(), data.to_str());
        send(&mut walled.gateway, &ToAgent::StopKernel { kernel_id }, &[]).await;
        until(&mut walled.gateway, KernelState::Stopped).await;
    }
}

#[tokio::test]
async fn a_kernel_finds_its_hub_unless_it_was_told_another_or_has_no_broker() {
    let script = script(r#"echo "$HF_ENDPOINT,$HF_TOKEN"; echo "$http_proxy $no_proxy $NO_PROXY" >proxies"#);
    // Behind a proxy, which a sandbox is told of: what is sent to the hub must not go there.
    let mut walled = Walled::start_with(script, walled(), |agent| {
        agent.env_remove("no_proxy");
        agent
            .env("http_proxy", "http://127.0.0.1:1")
            .env("NO_PROXY", "intern");
    })
    .await;
    assert_eq!(walled.said().await.trim(), "http://127.0.0.1:9,hf_of-this-kernel");
    let proxies = std::fs::read_to_string(walled.home().join("proxies")).unwrap();
    assert_eq!(
        proxies.trim(),
        "http://127.0.0.1:1 intern,127.0.0.1 intern,127.0.0.1"
    );
    for (name, value, found) in [
        ("HF_ENDPOINT", "https://hub.example", "https://hub.example,"),
        ("HF_TOKEN", "hf_own", ",hf_own"),
        ("KERNEL_NETWORK", "none", ","),
    ] {
        let said = walled.home().join("said");
        std::fs::remove_file(&said).unwrap();
        walled
            .kernel_with(&format!("{ACCOUNT}/"), false, &[(name, value)])
            .await;
        appears(&said).await;
        assert_eq!(std::fs::read_to_string(said).unwrap().trim(), found, "{name}");
    }
}

#[tokio::test]
async fn a_kernel_sees_no_sockets_of_another_one() {
    let script = script(r#"folder=$(dirname "$1"); ls "$folder"; echo; ls "$(dirname "$folder")"; ls /tmp"#);
    let mut walled = Walled::start(script, walled()).await;
    walled.said().await;
    std::fs::remove_file(walled.home().join("said")).unwrap();
    let said = walled.said().await;
    let (own, all) = said.split_once("\n\n").unwrap();
    assert!(own.contains("connection.json"), "{said}");
    let seen = std::fs::read_to_string(walled.world.folder.path().join("seen.json")).unwrap();
    let seen: serde_json::Value = serde_json::from_str(&seen).unwrap();
    let mut folder = PathBuf::from(seen["socket"].as_str().unwrap());
    assert_eq!(seen["confined"].as_str(), walled.home().to_str());
    folder.pop();
    let name = folder.file_name().unwrap().to_string_lossy().into_owned();
    folder.pop();
    assert_eq!(
        std::fs::read_dir(&folder).unwrap().count(),
        2,
        "there are two kernels"
    );
    // Folders of kernels are eight digits and a number; in /tmp there is only what leads to its own.
    let is_kernels = |line: &&str| {
        let id = line.split_once('-').map_or("", |(id, _)| id);
        id.len() == 8 && id.chars().all(|c| c.is_ascii_hexdigit())
    };
    let seen: Vec<_> = all.lines().filter(is_kernels).collect();
    assert_eq!(seen, [name], "{said}");
}

#[tokio::test]
async fn a_cell_sees_no_process_but_its_own_and_has_no_power() {
    let mut walled = Walled::start_with(
        script(
            r#"grep -E "CapEff|CapBnd|NoNewPrivs" /proc/self/status; echo count $(ls /proc | grep -c "^[0-9]")
            cat /proc/[0-9]*/environ | tr '\0' '\n'; ls /proc/1/root/ >/dev/null || true
            touch /usr/x /x /dev/x /etc/x; unshare --user true && echo new namespace; unshare --mount true && echo new mounts; mount -t tmpfs none /mnt; hostname x; ipcs -m | tail -n +4
            ls -d /sys/fs/cgroup/*; test -e /dev/fuse || echo no fuse; ls /dev"#,
        ),
        walled(),
        |agent| {
            agent.env("ALEPHLAB__GATEWAY__DATABASE", "canary-of-a-setting");
            agent.env("SOME_API_TOKEN", "canary-of-a-token");
        },
    )
    .await;
    let said = walled.said().await;
    assert!(!said.contains("canary"), "{said}");
    assert!(
        said.contains("CapEff:\t0000000000000000") && said.contains("CapBnd:\t0000000000000000"),
        "{said}"
    );
    assert!(
        said.contains("NoNewPrivs:\t1") && said.contains("no fuse"),
        "{said}"
    );
    assert!(
        !said.contains("new namespace") && !said.contains("new mounts"),
        "{said}"
    );
    let count: usize = said
        .lines()
        .find_map(|line| line.strip_prefix("count "))
        .unwrap()
        .parse()
        .unwrap();
    assert!(count < 8, "{said}");
    for path in ["/usr/x", "/x", "/dev/x", "/etc/x"] {
        assert!(
            said.contains(&format!("'{path}': Read-only file system"))
                || said.contains(&format!("'{path}': Permission denied")),
            "{path}: {said}"
        );
    }
    assert!(
        !said.contains("/sys/fs/cgroup/") || said.contains("cannot access '/sys/fs/cgroup/"),
        "{said}"
    );
}

#[tokio::test]
async fn a_cell_is_held_to_its_limits_together_with_all_that_it_starts() {
    let limits = Limits {
        memory: Some(64 << 20),
        processes: Some(40),
        open_files: Some(100),
        temporary: 1 << 20,
        ..Limits::default()
    };
    let text = r#"ulimit -n; ulimit -c; head -c 2000000 /dev/zero >/tmp/full; head -c 2000000 /dev/zero >/dev/shm/full
        (head -c 209715200 /dev/zero | tail -c 209715200 | wc -c); echo
        (i=0; while [ $i -lt 100 ]; do sleep 600 & i=$((i+1)); done); echo count $(ls /proc | grep -c "^[0-9]")"#;
    let confinement = Confinement { limits, ..walled() };
    let mut walled = Walled::start(script(text), confinement).await;
    let walls = walled
        .gateway
        .walls
        .clone()
        .expect("the agent says which walls there are");
    assert!(walls.bubblewrap, "{walls:?}");
    let said = walled.said().await;
    let mut lines = said.lines();
    assert_eq!((lines.next(), lines.next()), (Some("100"), Some("0")), "{said}");
    assert_eq!(said.matches("No space left on device").count(), 2, "{said}");
    let kept = |part: &str| walls.limits.iter().any(|limit| limit.contains(part));
    assert!(kept("memory 64 MiB"), "{walls:?}");
    assert!(!said.contains("209715200"), "{said}");
    let count = said.lines().find_map(|line| line.strip_prefix("count "));
    if kept("40 processes") {
        // The shell gives up at the first process that is refused.
        assert!(said.contains("Cannot fork") || said.contains("fork"), "{said}");
        assert!(
            count.is_none_or(|count| count.parse::<u32>().unwrap() <= 40),
            "{said}"
        );
    } else {
        assert_eq!(walls.limited_by, LimitedBy::ResourceLimits);
        let missing = walls.missing.join("; ");
        assert!(missing.contains("40 processes is not kept"), "{walls:?}");
    }
}

#[tokio::test]
async fn a_kernel_works_in_a_sandbox_and_its_death_is_told_as_ever() {
    let mut walled = Walled::start(echo(), walled()).await;
    let kernel = walled.kernel().await;
    until(&mut walled.gateway, KernelState::Idle).await;
    let gateway = &mut walled.gateway;
    let client = Uuid::new_v4();
    let code = |code: &str| json!({ "code": code });
    say(
        gateway,
        kernel,
        client,
        Channel::Shell,
        "execute_request",
        code("hi"),
    )
    .await;
    assert_eq!(heard(gateway, "stream").await.2["text"], "hi");
    send(gateway, &ToAgent::InterruptKernel { kernel_id: kernel }, &[]).await;
    assert_eq!(heard(gateway, "stream").await.2["text"], "interrupted");
    say(
        gateway,
        kernel,
        client,
        Channel::Shell,
        "execute_request",
        code("die"),
    )
    .await;
    let details = until(gateway, KernelState::Idle).await;
    assert!(details[0].contains("status 3"), "{details:?}");
}

#[tokio::test]
async fn a_signal_is_told_as_one() {
    let text = "kill -9 $$";
    let argv = ["/bin/sh", "-c", text].map(str::to_owned).to_vec();
    let mut walled = Walled::start(argv, walled()).await;
    walled.kernel().await;
    let details = until(&mut walled.gateway, KernelState::Dead).await;
    assert!(details[0].contains("killed (signal 9"), "{details:?}");
}

#[tokio::test]
async fn whatever_a_cell_started_ends_with_its_kernel_and_with_the_agent() {
    for way in ["stop", "kill", "leave"] {
        let seconds = seconds();
        // In sessions of its own, as a service is.
        let text = format!("setsid sleep {seconds} >/dev/null 2>&1 & sleep {seconds} & echo");
        let mut walled = Walled::start(script(&text), walled()).await;
        walled.said().await;
        number_of(&seconds, 2).await;
        match way {
            "stop" => {
                let kernel_id = walled.newest;
                send(&mut walled.gateway, &ToAgent::StopKernel { kernel_id }, &[]).await;
            }
            "kill" => walled.world.agent.start_kill().unwrap(),
            _ => drop(walled.world.agent.stdin.take()),
        }
        number_of(&seconds, 0).await;
    }
}

#[tokio::test]
async fn a_terminal_has_the_walls_of_its_account_and_ends_whole() {
    let mut walled = Walled::start(echo(), walled()).await;
    let seconds = seconds();
    let terminal_id = Uuid::new_v4();
    let order = ToAgent::OpenTerminal {
        terminal_id,
        cwd: Some(format!("{ACCOUNT}/")),
        home: Some(ACCOUNT.to_owned()),
        env: Default::default(),
        size: WindowSize { rows: 24, cols: 80 },
    };
    send(&mut walled.gateway, &order, &[]).await;
    let typed = format!(
        "(ls ../..; pwd; tty; cat /proc/1/comm) >part 2>&1; setsid sleep {seconds} & sleep {seconds} & fg %2 & mv part said\r"
    );
    let order = ToAgent::TerminalInput { terminal_id };
    send(&mut walled.gateway, &order, &[typed]).await;
    let said = walled.home().join("said");
    appears(&said).await;
    let said = std::fs::read_to_string(said).unwrap();
    assert!(said.contains("bwrap") && said.contains(ACCOUNT), "{said}");
    assert!(
        !said.contains("agent.lock") && !said.contains("not a tty"),
        "{said}"
    );
    number_of(&seconds, 2).await;
    send(&mut walled.gateway, &ToAgent::CloseTerminal { terminal_id }, &[]).await;
    number_of(&seconds, 0).await;
}

#[tokio::test]
async fn without_bubblewrap_it_is_said_and_what_was_demanded_is_refused() {
    let hide = |agent: &mut Command| {
        agent.env("PATH", "/nonexistent");
    };
    let auto = Confinement::default();
    let mut walled = Walled::start_with(echo(), auto, hide).await;
    let walls = walled.gateway.walls.clone().unwrap();
    assert!(
        !walls.bubblewrap && walls.missing[0].contains("not installed"),
        "{walls:?}"
    );
    walled.kernel().await;
    until(&mut walled.gateway, KernelState::Idle).await;
    let mut walled = Walled::start_with(echo(), self::walled(), hide).await;
    walled.kernel().await;
    let details = until(&mut walled.gateway, KernelState::Dead).await;
    assert!(
        details[0].contains("bubblewrap is not installed") && details[0].contains("isolation.sandbox"),
        "{details:?}"
    );
}

/// What a stranger's files are looked at in: nothing answers, not even on the loopback interface, and there is no broker.
#[tokio::test]
async fn a_kernel_that_is_cut_off_reaches_nothing() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let text = format!(
        "if (exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null; then echo reached; else echo nothing; fi; \
         ls \"$(dirname \"$1\")\"; cat \"$(dirname \"$1\")/handover.json\" 2>/dev/null; cat /proc/net/dev | tail -n +3 | cut -d: -f1"
    );
    let bash = |text: &str| {
        let mut words = script(text);
        words[0] = "/bin/bash".to_owned();
        words
    };
    let mut free = Walled::start(bash(&text), walled()).await;
    assert!(free.said().await.contains("reached"), "the test can tell");
    let mut walled = Walled::start(bash(&text), walled()).await;
    let said = walled.home().join("said");
    walled
        .kernel_with(&format!("{ACCOUNT}/"), false, &[("KERNEL_NETWORK", "none")])
        .await;
    appears(&said).await;
    let said = std::fs::read_to_string(said).unwrap();
    assert!(said.contains("nothing") && !said.contains("reached"), "{said}");
    let interfaces: Vec<_> = said.lines().rev().take(1).map(str::trim).collect();
    assert_eq!(interfaces, ["lo"], "{said}");
}

#[tokio::test]
async fn a_word_that_is_not_known_starts_nothing() {
    for (name, value) in [
        ("KERNEL_NETWORK", "off"),
        ("KERNEL_MEMORY", "much"),
        ("KERNEL_MEMORY", "0"),
    ] {
        let mut walled = Walled::start(script("true"), walled()).await;
        walled
            .kernel_with(&format!("{ACCOUNT}/"), false, &[(name, value)])
            .await;
        let why = until(&mut walled.gateway, KernelState::Dead).await;
        assert!(format!("{why:?}").contains(name), "{why:?}");
    }
}

#[tokio::test]
async fn without_a_sandbox_no_kernel_is_cut_off() {
    let confinement = Confinement {
        isolation: Isolation::None,
        ..Confinement::default()
    };
    let mut open = Walled::start(script("true"), confinement).await;
    open.kernel_with(&format!("{ACCOUNT}/"), false, &[("KERNEL_NETWORK", "none")])
        .await;
    let why = until(&mut open.gateway, KernelState::Dead).await;
    assert!(format!("{why:?}").contains("needs a sandbox"), "{why:?}");
    assert!(!open.home().join("said").exists());
}
