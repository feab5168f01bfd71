//! What the program takes of its host where it is there.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use alephlab_api::agent::FromAgent;
use alephlab_api::isolation::{Confinement, Isolation};
use alephlab_api::load::{GpuLoad, HostLoad};

use crate::world::{World, echo_kernel, gone, next};

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
