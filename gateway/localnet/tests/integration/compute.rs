//! The compute side: CRNs, scheduler and instances, with the unmodified SDK and a real SSH client.

use std::time::Duration;

use aleph_sdk::{
    crn::{CrnClient, CrnError, LogEntry},
    crns_list::CrnFilter,
};
use aleph_types::{account::Account, item_hash::ItemHash};
use alephlab_localnet::{ComputeConfig, Config, Fault, bind};
use futures_util::StreamExt;
use serde_json::json;

use crate::{
    network::{CARD, Network, UNITS, compute, host, network, processes_with, rich},
    ssh::{Ssh, new_key},
    support::{TestNode, a, b, until},
};

#[tokio::test]
async fn instance_is_rented_used_and_given_back() {
    let network = network(1).await;
    let filter = CrnFilter {
        gpu: Some(vec![vec![CARD.into()]]),
        min_vcpus: Some(UNITS),
        min_memory_mib: Some(36_864),
        ..CrnFilter::default()
    };
    let list = network.list().await;
    assert_eq!(list.filter(&filter).len(), 1);
    let hash = network.rent("first").await;
    let port = network.reached(&hash).await;
    // The scheduler and the list know it.
    let vm = network.scheduler().get_vm(&hash).await.unwrap().unwrap();
    assert_eq!(vm.status, "dispatched");
    let node = network
        .scheduler()
        .get_node(&vm.allocated_node.unwrap())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(node.node_hash, list.crns[0].hash);
    assert_eq!(format!("{}/", node.address.unwrap()), network.url().as_str());
    let owned = network
        .scheduler()
        .list_vms_by_owner(a().address())
        .await
        .unwrap();
    assert_eq!(owned.len(), 1);
    assert!(
        network
            .scheduler()
            .list_vms_by_owner(b().address())
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(network.free_cards().await, 0);
    let usage = network.node.get("/about/usage/system").await.json;
    assert_eq!(usage["gpu"]["devices"].as_array().unwrap().len(), 1);
    assert_eq!(usage["gpu"]["available_devices"], json!([]));
    // Only its key opens it, for root.
    assert!(Ssh::open(port, "root", &new_key()).await.is_none());
    assert!(Ssh::open(port, "nobody", &network.key).await.is_none());
    assert!(!Ssh::is_open_by_password(port, "").await);
    let ssh = network.ssh(&hash).await;
    assert!(!ssh.gives_a_shell().await);
    let said = ssh.run("cat; echo \"$RENTED\" >&2; exit 7").await;
    assert_eq!(
        (said.status, said.stderr.as_slice()),
        (Some(7), b"yes\n".as_slice())
    );
    // More than all windows and buffers hold, there and back.
    let large: Vec<u8> = (0..20_000_000_u32)
        .map(|n| n.to_le_bytes()[n as usize % 3])
        .collect();
    let said = ssh.run_with("cat", &large).await;
    assert_eq!(said.status, Some(0));
    assert!(said.stdout == large, "{} bytes came back", said.stdout.len());
    assert_eq!(ssh.run("kill -9 $$").await.status, Some(137));
    // What runs on after a command ends with the instance.
    let marker = format!("77777.{port}");
    ssh.run(&format!("sleep {marker} >/dev/null 2>&1 </dev/null &"))
        .await;
    until(async || processes_with(&marker) > 0).await;
    let crn = network.crn(&a());
    crn.update_instance_config(&hash).await.unwrap();
    network.forget(&hash).await;
    until(async || network.node.status(&hash.to_string()).await == "forgotten").await;
    until(async || !network.is_listed(&hash).await && !network.folder(&hash).exists()).await;
    assert_eq!(processes_with(&marker), 0);
    assert!(tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err());
    assert_eq!(network.free_cards().await, 1);
    assert_eq!(network.status(&hash).await, "removed");
    // The bill has stopped: the next sweeps charge nothing.
    let after = network.consumed(&hash).await;
    let sweeps = network.rent("later").await;
    until(async || network.consumed(&sweeps).await > 0).await;
    assert_eq!(network.consumed(&hash).await, after);
}

#[tokio::test]
async fn instance_sees_neither_this_machine_s_files_nor_its_processes() {
    let network = network(1).await;
    let secret = network.node.folder.path().join("secret");
    std::fs::write(&secret, "of the host").unwrap();
    let hash = network.rent("apart").await;
    let ssh = network.ssh(&hash).await;
    let said = ssh.run(&format!("cat {}", secret.display())).await;
    assert_ne!(said.status, Some(0));
    assert_eq!(
        ssh.run("ls -A /root /home /srv /opt 2>/dev/null | grep -v :")
            .await
            .text(),
        ""
    );
    let name = format!("vm-{}", &hash.to_string()[..8]);
    assert_eq!(
        ssh.run("uname -n; id -u; echo $HOME; pwd").await.text(),
        format!("{name}\n0\n/root\n/root")
    );
    assert_eq!(
        ssh.run("cat /etc/alephlab/host.json").await.text(),
        r#"{"kind":"local"}"#
    );
    // Its own processes are all that it sees: the sandbox's init, the first program, and this command's.
    let processes: usize = ssh
        .run("ls /proc | grep -c '^[0-9]*$'")
        .await
        .text()
        .parse()
        .unwrap();
    assert!(processes <= 5, "{processes} processes");
    let own = std::process::id();
    let looked = ssh.run(&format!("tr '\\0' ' ' < /proc/{own}/cmdline")).await;
    assert!(!looked.text().contains("integration"), "{looked:?}");
    // Its root writes where it is its own, and makes namespaces and mounts there, but not over what was laid for it.
    let own = ssh.run("set -e; touch ~/f /var/f /etc/f /tmp/f /run/f; unshare -U true; mkdir /tmp/m; mount -t tmpfs none /tmp/m").await;
    assert_eq!(own.status, Some(0), "{}", String::from_utf8_lossy(&own.stderr));
    for denied in [
        "touch /usr/f",
        "mount -o remount,rw,bind /usr",
        "umount /usr",
        "echo > /etc/ssh/authorized_keys",
    ] {
        assert_ne!(ssh.run(denied).await.status, Some(0), "{denied}");
    }
    // Nothing of this process's environment.
    assert_eq!(
        ssh.run("cat /proc/*/environ | tr '\\0' '\\n' | grep -c CARGO")
            .await
            .text(),
        "0"
    );
}

#[tokio::test]
async fn second_instance_finds_no_card_and_reservations_hold_one() {
    let network = network(2).await;
    let first = network.rent("first").await;
    network.reached(&first).await;
    // B reserves the other card: A cannot have it, B can.
    let theirs = network.instance(&b(), "theirs", UNITS).await;
    let reserved = crate::signed_crn::reserve(&network.node, &b(), &theirs.item_content).await;
    assert_eq!(
        (reserved.status, &reserved.json["status"]),
        (200, &json!("reserved")),
        "{}",
        reserved.text
    );
    assert!(chrono::DateTime::parse_from_rfc3339(reserved.json["expires"].as_str().unwrap()).is_ok());
    assert_eq!(network.free_cards().await, 0);
    let second = network.instance(&a(), "second", UNITS).await;
    let refused = crate::signed_crn::reserve(&network.node, &a(), &second.item_content).await;
    assert_eq!(refused.status, 503, "{}", refused.text);
    let second = network.post(&second).await;
    until(async || network.status(&second).await == "unschedulable").await;
    match network
        .crn(&a())
        .start_instance_allocation(&second)
        .await
        .unwrap_err()
    {
        CrnError::Api { status, body } => {
            assert_eq!((status, body.contains("cannot host")), (503, true), "{body}");
        }
        other => panic!("not refused: {other:?}"),
    }
    let theirs = network.post(&theirs).await;
    network.reached(&theirs).await;
    // Whoever gives one back lets the next in.
    network.forget(&first).await;
    network.reached(&second).await;
    assert_eq!(network.status(&second).await, "dispatched");
}

#[tokio::test]
async fn wrong_tier_and_unknown_instances_are_refused() {
    let network = network(1).await;
    let wrong = network.instance(&a(), "small", UNITS - 1).await;
    let reserved = crate::signed_crn::reserve(&network.node, &a(), &wrong.item_content).await;
    assert_eq!(reserved.status, 400, "{}", reserved.text);
    let hash = network.post(&wrong).await;
    until(async || network.status(&hash).await == "unschedulable").await;
    let answer = network.crn(&a()).start_instance_allocation(&hash).await.unwrap();
    assert!(
        !answer.success && answer.errors[&hash.to_string()].contains("6 vCPU"),
        "{answer:?}"
    );
    assert!(!network.is_listed(&hash).await);
    let unknown = ItemHash::from([7; 32]);
    assert!(network.scheduler().get_vm(&unknown).await.unwrap().is_none());
    assert!(network.scheduler().get_node("no node").await.unwrap().is_none());
    assert!(matches!(
        network.crn(&a()).stop_instance(&unknown).await,
        Err(CrnError::VmNotFound(_))
    ));
    assert!(matches!(
        network.crn(&a()).update_instance_config(&unknown).await,
        Err(CrnError::VmNotFound(_))
    ));
    assert_eq!(
        network
            .node
            .post("/control/allocation/notify", &json!({}))
            .await
            .status,
        400
    );
}

#[tokio::test]
async fn owner_stops_starts_reboots_and_erases() {
    let network = network(1).await;
    let hash = network.rent("mine").await;
    let ssh = network.ssh(&hash).await;
    ssh.run("echo kept > ~/kept; touch /tmp/gone").await;
    let (owner, stranger) = (network.crn(&a()), network.crn(&b()));
    for refused in [
        stranger.stop_instance(&hash).await,
        stranger.erase_instance(&hash).await,
        stranger.reboot_instance(&hash).await,
    ] {
        assert!(matches!(refused, Err(CrnError::Unauthorized(_))), "{refused:?}");
    }
    owner.reboot_instance(&hash).await.unwrap();
    let ssh = network.ssh(&hash).await;
    assert_eq!(ssh.run("cat ~/kept; ls /tmp").await.text(), "kept");
    // Stopping frees the card and goes on costing.
    owner.stop_instance(&hash).await.unwrap();
    assert!(!network.is_listed(&hash).await);
    assert_eq!(network.free_cards().await, 1);
    assert_eq!(network.status(&hash).await, "missing");
    let before = network.consumed(&hash).await;
    until(async || network.consumed(&hash).await > before).await;
    assert!(!network.is_listed(&hash).await);
    assert!(owner.start_instance(&hash).await.unwrap().success);
    assert_eq!(network.ssh(&hash).await.run("cat ~/kept").await.text(), "kept");
    owner.erase_instance(&hash).await.unwrap();
    assert!(!network.folder(&hash).exists());
    assert!(owner.start_instance(&hash).await.unwrap().success);
    assert_ne!(network.ssh(&hash).await.run("cat ~/kept").await.status, Some(0));
}

#[tokio::test]
async fn console_is_shown_to_the_owner_only() {
    let network = network(1).await;
    let hash = network.rent("mine").await;
    let ssh = network.ssh(&hash).await;
    let owner = network.crn(&a());
    let lines = owner.stream_logs(&hash).await.unwrap();
    let mut lines = Box::pin(lines);
    ssh.run("echo on the console > /proc/2/fd/1").await;
    let mut seen: Vec<LogEntry> = Vec::new();
    let wait = async {
        while !seen.iter().any(|line| line.message == "on the console") {
            seen.push(lines.next().await.unwrap().unwrap());
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap();
    assert!(
        seen.iter()
            .any(|line| line.message.contains("no key that this instance knows")),
        "{seen:?}"
    );
    match network.crn(&b()).stream_logs(&hash).await.map(|_| ()) {
        Err(CrnError::Unauthorized(reason)) => assert!(reason.contains("Unauthorized"), "{reason}"),
        other => panic!("not refused: {other:?}"),
    }
    let path = format!("/control/machine/{hash}/logs");
    let logs = crate::signed_crn::get(&network.node, &a(), &path).await;
    assert_eq!(logs.status, 200);
    assert!(logs.text.contains("> on the console"), "{}", logs.text);
    assert_eq!(
        crate::signed_crn::get(&network.node, &b(), &path).await.status,
        403
    );
    assert_eq!(network.node.get(&path).await.status, 400);
}

#[tokio::test]
async fn restart_boots_what_should_run_and_nothing_else() {
    let network = network(3).await;
    let (running, stopped, forgotten) = (
        network.rent("running").await,
        network.rent("stopped").await,
        network.rent("forgotten").await,
    );
    let marker = format!("88888.{}", network.reached(&running).await);
    let ssh = network.ssh(&running).await;
    ssh.run("echo kept > ~/kept").await;
    ssh.run(&format!("sleep {marker} >/dev/null 2>&1 </dev/null &"))
        .await;
    network.reached(&stopped).await;
    network.reached(&forgotten).await;
    network.crn(&a()).stop_instance(&stopped).await.unwrap();
    network.fault(Fault::IgnoreForget);
    network.forget(&forgotten).await;
    until(async || network.status(&forgotten).await == "orphaned").await;
    assert!(
        Ssh::open(network.reached(&forgotten).await, "root", &network.key)
            .await
            .is_some()
    );
    let (rootfs, key) = (network.rootfs.clone(), network.key.clone());
    let folder = network.node.stop().await;
    assert_eq!(processes_with(&marker), 0);
    let node = TestNode::start_in(folder, |config| rich(config, vec![host("one", 3)])).await;
    let network = Network { node, rootfs, key };
    assert_eq!(network.ssh(&running).await.run("cat ~/kept").await.text(), "kept");
    until(async || !network.folder(&forgotten).exists()).await;
    assert!(!network.is_listed(&stopped).await && !network.is_listed(&forgotten).await);
    assert_eq!(network.free_cards().await, 2);
}

#[tokio::test]
async fn instance_ends_when_its_owner_s_credits_do() {
    let node = TestNode::start_with(|config| {
        rich(config, vec![host("one", 1)]);
        // A day of the machine and of the file, but B's go to A right after.
        config.credits = 6_300_000;
    })
    .await;
    let network = Network::of(node).await;
    let hash = network.rent("poor").await;
    network.reached(&hash).await;
    let balance = network
        .node
        .get(&format!("/api/v0/addresses/{}/balance", a().address()))
        .await
        .json;
    let left = balance["credit_balance"].as_u64().unwrap() - 500;
    let credits = json!({"transfer": {"credits": [{"address": b().address().as_str(), "amount": left}]}});
    let post = json!({"address": a().address().as_str(), "time": crate::support::TIME, "type": "aleph_credit_transfer", "content": credits});
    let message = crate::support::signed_on(
        &a(),
        aleph_types::message::MessageType::Post,
        &post,
        Some("ALEPH_CREDIT"),
    );
    network.node.accept(&message).await;
    until(async || !network.is_listed(&hash).await).await;
    let after = network.consumed(&hash).await;
    assert!(matches!(
        network.crn(&a()).start_instance(&hash).await,
        Err(CrnError::PaymentRequired(_))
    ));
    assert_eq!(network.consumed(&hash).await, after);
}

#[tokio::test]
async fn fault_switches_break_hosts() {
    let network = network(1).await;
    let crn = network.crn(&a());
    network.fault(Fault::NeverBoots);
    let hash = network.rent("unlucky").await;
    until(async || network.is_listed(&hash).await).await;
    assert_eq!(
        (network.status(&hash).await.as_str(), network.port(&hash).await),
        ("dispatched", None)
    );
    network.fault(Fault::NoCapacity);
    match crn.reboot_instance(&hash).await.unwrap_err() {
        CrnError::Api { status, .. } => assert_eq!(status, 503),
        other => panic!("not refused: {other:?}"),
    }
    // It is listed as free and refused all the same.
    assert_eq!(network.free_cards().await, 1);
    let reserved = network.instance(&a(), "unlucky", UNITS).await;
    let reserved = crate::signed_crn::reserve(&network.node, &a(), &reserved.item_content).await;
    assert_eq!(reserved.status, 503);
    until(async || network.status(&hash).await == "unschedulable").await;
    network.node.handle.faults.clear();
    network.reached(&hash).await;
    network.fault(Fault::InstanceDies {
        instance: hash.to_string(),
    });
    until(async || !network.is_listed(&hash).await).await;
    network.node.handle.faults.clear();
    // Nobody starts it again by himself.
    assert_eq!(network.status(&hash).await, "missing");
    assert!(crn.start_instance(&hash).await.unwrap().success);
    network.reached(&hash).await;
    network.fault(Fault::CrnUnreachable { node: "one".into() });
    assert!(crn.get_active_vms().await.is_err());
    assert!(network.list().await.crns.is_empty());
    let node = network.scheduler().find_nodes_by_hash_fragment("").await.unwrap();
    assert_eq!(node[0].status.as_deref(), Some("Unreachable"));
    network.node.handle.faults.clear();
    assert!(network.port(&hash).await.is_some());
}

#[tokio::test]
async fn second_crn_answers_at_its_own_address() {
    let listener = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let mut other = host("two", 1);
    other.listener = Some(listener);
    let hosts = vec![other, host("one", 0)];
    let network = Network::of(TestNode::start_with(|config| rich(config, hosts)).await).await;
    let list = network.list().await;
    assert_eq!(list.crns[0].name, "two");
    assert_ne!(list.crns[0].address, list.crns[1].address);
    let hash = network.rent("there").await;
    let crn = CrnClient::new(&a(), list.crns[0].address.parse().unwrap()).unwrap();
    until(async || crn.get_active_vms().await.unwrap().0.contains_key(&hash)).await;
    assert!(!network.is_listed(&hash).await);
    crn.stop_instance(&hash).await.unwrap();
    assert!(matches!(
        network.crn(&a()).stop_instance(&hash).await,
        Err(CrnError::VmNotFound(_))
    ));
}

#[tokio::test]
async fn hosts_that_cannot_be_are_refused_with_a_hint() {
    async fn refused(change: impl FnOnce(&mut ComputeConfig)) -> alephlab_localnet::Error {
        let folder = tempfile::TempDir::new().unwrap();
        let mut config = Config::new(bind(([127, 0, 0, 1], 0).into()).await.unwrap(), folder.path());
        let mut hosts = compute(vec![host("one", 1)]);
        change(&mut hosts);
        config.compute = Some(hosts);
        let stop = tokio_util::sync::CancellationToken::new();
        alephlab_localnet::Localnet::start(config, stop)
            .await
            .unwrap_err()
    }
    let error = refused(|hosts| hosts.bwrap = "no-such-program".into()).await;
    assert_eq!(error.code(), "localnet_sandbox");
    assert!(error.hint().unwrap().contains("bubblewrap"), "{error}");
    let error = refused(|hosts| hosts.instance = "/no/such/program".into()).await;
    assert_eq!(error.code(), "localnet_instance");
    let error = refused(|hosts| hosts.nodes.push(host("two", 1))).await;
    assert_eq!(error.code(), "localnet_compute");
    let error = refused(|hosts| hosts.nodes[0].gpus[0].device_id = "10de:ffff".into()).await;
    assert_eq!(error.code(), "localnet_compute");
}
