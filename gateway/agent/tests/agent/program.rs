//! What the program asks of its host: nothing but Linux, not even a C library; and what it takes where there is more.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use alephlab_api::agent::FromAgent;
use alephlab_api::isolation::{Confinement, Isolation};
use alephlab_api::load::{GpuLoad, HostLoad};
use object::Endianness;
use object::elf::{DT_NEEDED, FileHeader64, PT_INTERP};
use object::read::elf::{Dyn as _, FileHeader as _, ProgramHeader as _};
use tokio::process::Command;

use crate::world::{AGENT, World, echo, echo_kernel, gone, next};

/// What the program cannot start without: who loads it, and libraries.
fn asks_for(program: &Path) -> Vec<String> {
    let data = std::fs::read(program).unwrap();
    let header = FileHeader64::<Endianness>::parse(&*data).unwrap();
    let endian = header.endian().unwrap();
    let mut asks = Vec::new();
    for part in header.program_headers(endian, &*data).unwrap() {
        if part.p_type(endian) == PT_INTERP {
            let name = part.interpreter(endian, &*data).unwrap().unwrap();
            asks.push(String::from_utf8_lossy(name).into_owned());
        }
        let entries = part.dynamic(endian, &*data).unwrap().unwrap_or_default();
        let needed = entries.iter().filter(|entry| entry.tag(endian) == DT_NEEDED);
        asks.extend(needed.map(|_| "a library".to_owned()));
    }
    asks
}

#[test]
fn asks_for_no_library() {
    assert_eq!(asks_for(Path::new(AGENT)), [""; 0], "see gateway/agent/build.rs");
    // So would this test of itself, which is linked as usual.
    let usual = asks_for(&std::env::current_exe().unwrap());
    assert!(usual.iter().any(|asked| asked == "a library"), "{usual:?}");
}

#[tokio::test]
async fn finds_the_gateway_by_name_on_a_host_that_has_nothing() {
    let names = tempfile::tempdir().unwrap();
    std::fs::write(names.path().join("hosts"), "127.0.0.1 gateway.example\n").unwrap();
    // A host that asks somebody else for names, by a library that it does not have either.
    std::fs::write(names.path().join("nsswitch.conf"), "hosts: nobody\n").unwrap();
    let confinement = Confinement {
        isolation: Isolation::None,
        ..Confinement::default()
    };
    let world = World::start_confined(echo(), &[], confinement, |agent| {
        let arguments = agent.as_std().get_args().map(|argument| {
            let argument = argument.to_str().unwrap();
            argument.replace("127.0.0.1", "gateway.example")
        });
        let arguments: Vec<String> = arguments.collect();
        // The folder of the test, which the bootstrap file is in.
        let folder = Path::new(arguments.last().unwrap()).parent().unwrap();
        let mut empty = Command::new("bwrap");
        empty.args(["--die-with-parent", "--dev", "/dev"]);
        empty.args(["--proc", "/proc", "--tmpfs", "/tmp"]);
        empty.arg("--bind").args([folder, folder]);
        empty.arg("--ro-bind").args([names.path(), Path::new("/etc")]);
        empty
            .args(["--ro-bind", AGENT, "/agent", "/agent"])
            .args(&arguments);
        empty
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        *agent = empty;
    })
    .await;
    world.accept().await;
}

/// Says what `nvidia-smi` says in a loop: a GPU, and the kernel, whose number the kernel writes beside it.
const NVIDIA_SMI: &str = r#"#!/bin/sh
cd "${0%/*}"; echo $$ >>asked
case "$*" in
*--query-gpu=index,utilization.gpu,memory.used,memory.total,temperature.gpu,name*--loop=*)
    row() { echo "0, 37, 1234, 81559, 41, NVIDIA H100 80GB HBM3"; } ;;
*--query-compute-apps=pid,used_gpu_memory,gpu_uuid*--loop=*)
    row() { [ ! -e kernel ] || echo "$(cat kernel), 512, GPU-7f5c0b8e"; } ;;
*) exit 1 ;;
esac
while :; do row; sleep 0.1; done
"#;

#[tokio::test]
async fn tells_what_nvidia_smi_says_and_leaves_none_of_it_running() {
    let folder = tempfile::tempdir().unwrap();
    let (program, asked) = (folder.path().join("nvidia-smi"), folder.path().join("asked"));
    std::fs::write(&program, NVIDIA_SMI).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
    let pid = folder.path().join("kernel");
    let kernel = format!(
        "echo $$ >{}; exec {} \"$0\"",
        pid.display(),
        echo_kernel().display()
    );
    let kernel = ["/bin/sh", "-c", &kernel, "{connection_file}"].map(str::to_owned);
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let confinement = Confinement {
        isolation: Isolation::None,
        ..Confinement::default()
    };
    let mut world = World::start_confined(kernel.to_vec(), &[], confinement, |agent| {
        agent.env("PATH", path);
    })
    .await;
    let mut gateway = world.accept().await;
    let kernel = world.kernel(&mut gateway).await;
    let said = async {
        loop {
            if let (_, FromAgent::Load { host, kernels }, _) = next(&mut gateway).await
                && let Some(bytes) = kernels[&kernel].gpu_memory
            {
                return (host, bytes);
            }
        }
    };
    let (HostLoad { gpus, .. }, bytes) = tokio::time::timeout(Duration::from_secs(60), said)
        .await
        .expect("it is told");
    let h100 = GpuLoad {
        name: "NVIDIA H100 80GB HBM3".to_owned(),
        busy: 37,
        memory_used: 1234 << 20,
        memory: 81559 << 20,
        celsius: Some(41),
    };
    assert_eq!((gpus, bytes), (vec![h100], 512 << 20));
    world.agent.kill().await.unwrap();
    let asked = std::fs::read_to_string(asked).unwrap();
    assert_eq!(asked.lines().count(), 2, "each question is asked once: {asked}");
    for pid in asked.lines() {
        gone(pid.parse().unwrap()).await;
    }
}
