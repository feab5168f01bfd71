//! The agent as a program, with a gateway that the test plays, a small kernel and a broker of four lines of shell.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod isolation;
mod program;
mod terminals;
mod world;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use alephlab_api::agent::{FromAgent, ToAgent};
use alephlab_api::jupyter::Channel;
use alephlab_api::kernel::KernelState;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use uuid::Uuid;

use crate::world::{DEADLINE, Gateway, World, echo, gone, heard, next, say, send, start, until};

#[tokio::test]
async fn passes_messages_of_each_client_and_output_to_all() {
    let world = World::start(echo()).await;
    let mut gateway = world.accept().await;
    let kernel = world.kernel(&mut gateway).await;
    for client in [Uuid::new_v4(), Uuid::new_v4()] {
        say(
            &mut gateway,
            kernel,
            client,
            Channel::Shell,
            "execute_request",
            json!({ "code": "hi" }),
        )
        .await;
        // Output and reply come by two sockets, in either order.
        let (mut output, mut reply) = (None, None);
        while output.is_none() || reply.is_none() {
            if let (_, FromAgent::Message { client, channel, .. }, mut parts) = next(&mut gateway).await {
                match parts[0]["msg_type"].as_str().unwrap() {
                    "stream" => output = Some((client, channel, parts[3]["text"].take())),
                    "execute_reply" => reply = Some((client, channel)),
                    _ => {}
                }
            }
        }
        assert_eq!(output, Some((None, Channel::Iopub, "hi".into())));
        assert_eq!(reply, Some((Some(client), Channel::Shell)));
    }
}

#[tokio::test]
async fn a_question_reaches_the_client_that_ran_the_cell() {
    let world = World::start(echo()).await;
    let mut gateway = world.accept().await;
    let kernel = world.kernel(&mut gateway).await;
    let (asker, other) = (Uuid::new_v4(), Uuid::new_v4());
    say(
        &mut gateway,
        kernel,
        other,
        Channel::Shell,
        "execute_request",
        json!({ "code": "hi" }),
    )
    .await;
    heard(&mut gateway, "execute_reply").await;
    say(
        &mut gateway,
        kernel,
        asker,
        Channel::Shell,
        "execute_request",
        json!({ "code": "ask" }),
    )
    .await;
    let (to, channel, _) = heard(&mut gateway, "input_request").await;
    assert_eq!((to, channel), (Some(asker), Channel::Stdin));
    say(
        &mut gateway,
        kernel,
        asker,
        Channel::Stdin,
        "input_reply",
        json!({ "value": "42" }),
    )
    .await;
    assert_eq!(heard(&mut gateway, "stream").await.2["text"], "42");
    send(&mut gateway, &ToAgent::InterruptKernel { kernel_id: kernel }, &[]).await;
    assert_eq!(heard(&mut gateway, "stream").await.2["text"], "interrupted");
}

#[tokio::test]
async fn a_kernel_that_dies_is_restarted_and_says_so() {
    let world = World::start(echo()).await;
    let mut gateway = world.accept().await;
    let kernel = world.kernel(&mut gateway).await;
    let (client, first) = (Uuid::new_v4(), world.kernel_pid());
    say(
        &mut gateway,
        kernel,
        client,
        Channel::Shell,
        "execute_request",
        json!({ "code": "die" }),
    )
    .await;
    let details = until(&mut gateway, KernelState::Idle).await;
    assert!(
        details[0].contains("status 3") && details[0].contains("variables are gone"),
        "{details:?}"
    );
    assert_ne!(world.kernel_pid(), first);
    // The same client goes on with the new process.
    say(
        &mut gateway,
        kernel,
        client,
        Channel::Shell,
        "execute_request",
        json!({ "code": "hi" }),
    )
    .await;
    assert_eq!(heard(&mut gateway, "execute_reply").await.0, Some(client));
    send(&mut gateway, &ToAgent::RestartKernel { kernel_id: kernel }, &[]).await;
    assert!(
        until(&mut gateway, KernelState::Idle).await.is_empty(),
        "an ordered restart needs no reason"
    );
}

#[tokio::test]
async fn a_kernel_that_dies_at_once_again_and_again_stays_dead() {
    let world = World::start(echo()).await;
    let mut gateway = world.accept().await;
    let kernel = world.kernel(&mut gateway).await;
    for round in 0..4 {
        say(
            &mut gateway,
            kernel,
            Uuid::new_v4(),
            Channel::Shell,
            "execute_request",
            json!({ "code": "die" }),
        )
        .await;
        let wanted = if round < 3 {
            KernelState::Idle
        } else {
            KernelState::Dead
        };
        until(&mut gateway, wanted).await;
    }
    send(&mut gateway, &ToAgent::RestartKernel { kernel_id: kernel }, &[]).await;
    until(&mut gateway, KernelState::Idle).await;
}

#[tokio::test]
async fn the_broker_gets_a_private_file_and_ends_with_the_kernel() {
    let world = World::start(echo()).await;
    let mut gateway = world.accept().await;
    let kernel = world.kernel(&mut gateway).await;
    let seen = world.folder.path().join("seen.json");
    assert_eq!(
        std::fs::metadata(&seen).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let seen: Value = serde_json::from_slice(&std::fs::read(seen).unwrap()).unwrap();
    assert_eq!(
        (seen["kernel_token"].as_str(), seen["account"].as_str()),
        (Some("kernel-token"), Some("0xAb"))
    );
    let folder = Path::new(seen["socket"].as_str().unwrap())
        .parent()
        .unwrap()
        .to_owned();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(
        (mode(&folder), mode(&folder.join("connection.json"))),
        (0o700, 0o600)
    );
    let pid = world.kernel_pid();
    send(&mut gateway, &ToAgent::StopKernel { kernel_id: kernel }, &[]).await;
    until(&mut gateway, KernelState::Stopped).await;
    gone(pid).await;
    assert!(!folder.exists(), "nothing is left of a stopped kernel");
}

/// Runs a cell that prints its code; gives the numbers of what came until the reply.
async fn run(gateway: &mut Gateway, kernel: Uuid, client: Uuid, code: &str) -> Vec<u64> {
    say(
        gateway,
        kernel,
        client,
        Channel::Shell,
        "execute_request",
        json!({ "code": code }),
    )
    .await;
    let (mut numbers, mut printed, mut replied) = (Vec::new(), false, false);
    while !(printed && replied) {
        let (number, said, parts) = next(gateway).await;
        numbers.push(number);
        if let FromAgent::Message { .. } = said {
            printed |= parts[0]["msg_type"] == "stream" && parts[3]["text"] == code;
            replied |= parts[0]["msg_type"] == "execute_reply";
        }
    }
    numbers
}

#[tokio::test]
async fn goes_on_after_a_lost_connection_without_losing_or_repeating_anything() {
    let world = World::start(echo()).await;
    let mut gateway = world.accept().await;
    assert!(gateway.kernels.is_empty() && gateway.proof.token.is_some());
    let (kernel, client) = (world.kernel(&mut gateway).await, Uuid::new_v4());
    let numbers = run(&mut gateway, kernel, client, "one").await;
    let newest = *numbers.last().unwrap();
    gateway
        .note(kernel, (newest, newest - 1), json!({ "mine": 7 }))
        .await;
    let ordered = gateway.ordered;
    // The note came before the next order, so its answer tells that the note is kept.
    let after = run(&mut gateway, kernel, client, "two").await;
    drop(gateway);
    let mut gateway = world.hello(world.run).await;
    assert!(gateway.proof.token.is_none(), "the token was good once");
    let held = gateway.kernels.remove(0);
    assert_eq!(
        (held.kernel_id, held.oldest, &held.note["mine"]),
        (kernel, newest - 1, &json!(7))
    );
    let received = gateway.received.unwrap();
    assert_eq!((received.run, received.number), (world.run, ordered + 1));
    // This gateway lost what came after the note; and it sends the last order again, not knowing that it was obeyed.
    let kernels = [(kernel, newest)].into();
    gateway
        .tell(&ToAgent::Resume {
            kernels,
            terminals: Default::default(),
        })
        .await;
    let mut again = Vec::new();
    while again.len() < after.len() {
        again.push(next(&mut gateway).await.0);
    }
    assert_eq!(again, after);
    let repeated = ToAgent::RestartKernel { kernel_id: kernel };
    gateway.send_numbered(received.number, &repeated, &[]).await;
    gateway.ordered = received.number;
    let pid = world.kernel_pid();
    run(&mut gateway, kernel, client, "three").await;
    assert_eq!(world.kernel_pid(), pid, "an order is obeyed once");
}

#[tokio::test]
async fn another_run_of_the_gateway_finds_everything_with_the_agent() {
    let world = World::start(echo()).await;
    let mut gateway = world.accept().await;
    let (kernel, client) = (world.kernel(&mut gateway).await, Uuid::new_v4());
    let forgotten = world.kernel(&mut gateway).await;
    let numbers = run(&mut gateway, kernel, client, "one").await;
    drop(gateway);
    let another = Uuid::new_v4();
    let mut gateway = world.hello(another).await;
    // The new run knows one of the kernels and has nothing of it.
    let kernels = [(kernel, 0)].into();
    gateway
        .tell(&ToAgent::Resume {
            kernels,
            terminals: Default::default(),
        })
        .await;
    let mut seen = Vec::new();
    while seen.last() != numbers.last() {
        let (number, said, _) = next(&mut gateway).await;
        match said {
            FromAgent::State { kernel_id, .. } | FromAgent::Message { kernel_id, .. }
                if kernel_id == kernel =>
            {
                seen.push(number);
            }
            _ => {}
        }
    }
    assert_eq!(seen, (1..=*numbers.last().unwrap()).collect::<Vec<_>>());
    // Its orders count from 1 again.
    run(&mut gateway, kernel, client, "two").await;
    drop(gateway);
    let known: Vec<_> = world
        .hello(another)
        .await
        .kernels
        .iter()
        .map(|held| held.kernel_id)
        .collect();
    assert!(
        !known.contains(&forgotten) && known.contains(&kernel),
        "{known:?}"
    );
}

#[tokio::test]
async fn an_agent_that_is_to_outlive_its_gateway_does_and_is_found_by_its_lock() {
    let mut world = World::start_with(echo(), &["--outlive"]).await;
    let mut gateway = world.accept().await;
    let kernel = world.kernel(&mut gateway).await;
    drop(world.agent.stdin.take());
    run(&mut gateway, kernel, Uuid::new_v4(), "still here").await;
    let lock = world.folder.path().join("agent.lock");
    let text = std::fs::read_to_string(&lock).unwrap();
    let [pid, gateway, boot] = text.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{text}")
    };
    let this = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert_eq!(boot, this.trim());
    assert_eq!(pid.parse().ok(), world.agent.id());
    assert!(gateway.ends_with(&world.listener.local_addr().unwrap().to_string()));
    let file = std::fs::File::open(&lock).unwrap();
    assert!(file.try_lock().is_err(), "it is held");
    world.agent.start_kill().unwrap();
    world.agent.wait().await.unwrap();
    file.try_lock().unwrap();
}

#[tokio::test]
async fn leaves_no_orphan_when_it_is_killed_or_its_gateway_goes() {
    for kill in [true, false] {
        let mut world = World::start(echo()).await;
        let mut gateway = world.accept().await;
        world.kernel(&mut gateway).await;
        let pid = world.kernel_pid();
        if kill {
            world.agent.start_kill().unwrap();
        } else {
            // The gateway held the other end of the agent's input.
            drop(world.agent.stdin.take());
        }
        gone(pid).await;
        tokio::time::timeout(DEADLINE, world.agent.wait())
            .await
            .expect("the agent ends")
            .unwrap();
    }
}

#[tokio::test]
async fn a_program_that_is_missing_is_named() {
    let world = World::start(vec!["/nonexistent/kernel".into()]).await;
    let mut gateway = world.accept().await;
    start(&mut gateway, Uuid::new_v4()).await;
    let details = until(&mut gateway, KernelState::Dead).await;
    assert!(
        details[0].contains("/nonexistent/kernel could not be started: No such file"),
        "{details:?}"
    );
}

#[tokio::test]
async fn the_reason_of_an_end_is_the_last_line_that_was_said() {
    let script =
        "i=0; while [ $i -lt 500 ]; do echo line $i; i=$((i+1)); done >&2; echo error: the end >&2; exit 7";
    let world = World::start(vec!["/bin/sh".into(), "-c".into(), script.into()]).await;
    let mut gateway = world.accept().await;
    start(&mut gateway, Uuid::new_v4()).await;
    let details = until(&mut gateway, KernelState::Dead).await;
    assert!(details[0].contains("status 7: the end"), "{details:?}");
}

#[tokio::test]
async fn an_interrupt_while_a_kernel_starts_is_kept() {
    let script = r#"while [ ! -e go ]; do sleep 0.02; done; exec "$0" "$1""#;
    let mut argv = vec!["/bin/sh".into(), "-c".into(), script.into()];
    argv.extend(echo());
    let world = World::start(argv).await;
    let mut gateway = world.accept().await;
    let kernel_id = Uuid::new_v4();
    start(&mut gateway, kernel_id).await;
    send(&mut gateway, &ToAgent::InterruptKernel { kernel_id }, &[]).await;
    // Orders are taken in their order: once this one starts, the interrupt is with its kernel.
    start(&mut gateway, Uuid::new_v4()).await;
    until(&mut gateway, KernelState::Starting).await;
    until(&mut gateway, KernelState::Starting).await;
    std::fs::write(world.folder.path().join("work/go"), "").unwrap();
    assert_eq!(heard(&mut gateway, "stream").await.2["text"], "interrupted");
}

#[tokio::test]
async fn stops_while_its_gateway_does_not_answer_a_dial() {
    let mut world = World::start(echo()).await;
    // Accepted, and never answered.
    let _stream = world.listener.accept().await.unwrap();
    drop(world.agent.stdin.take());
    let ended = tokio::time::timeout(Duration::from_secs(5), world.agent.wait()).await;
    assert!(ended.expect("sooner than the dial gives up").unwrap().success());
}

#[tokio::test]
async fn ends_with_a_sentence_when_its_lease_is_refused() {
    let mut world = World::start(echo()).await;
    // Kept open: its end would end the agent too.
    let _input = world.agent.stdin.take();
    let mut gateway = world.accept().await;
    let close = CloseFrame {
        code: 4401.into(),
        reason: "this lease is not known here".into(),
    };
    gateway.socket.close(Some(close)).await.unwrap();
    let output = tokio::time::timeout(DEADLINE, world.agent.wait_with_output())
        .await
        .unwrap()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && said.contains("refused this lease: this lease is not known here"),
        "{said}"
    );
}
