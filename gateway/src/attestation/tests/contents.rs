//! What messages allow one to say of a host.

use serde_json::{Value, json};

use super::super::{Content, Measurement, TrustLine};
use super::{NOW, refused};

const HASH: &str = "cafecafecafecafecafecafecafecafecafecafecafecafecafecafecafecafe";

fn read(value: &Value) -> Content {
    Content::read(value.to_string().as_bytes()).expect("it is a content")
}

fn launch() -> String {
    "ab".repeat(48)
}

fn measurements() -> Value {
    json!([{"platform": "sev_snp", "registers": {"launch": launch()}}])
}

fn instance(trusted_execution: &Value, gpus: &Value) -> Value {
    json!({
        "address": "0xB136a85c95a0ea573793AcB739c7dB682B9c7d0f", "time": 1_787_011_200.0,
        "allow_amend": false,
        "resources": {"vcpus": 8, "memory": 65536, "seconds": 30},
        "payment": {"type": "credit"},
        "requirements": {"gpu": gpus},
        "environment": {"internet": true, "aleph_api": false, "trusted_execution": trusted_execution},
        "rootfs": {"parent": {"ref": HASH, "use_latest": false}, "persistence": "host", "size_mib": 61440}
    })
}

fn snp() -> Value {
    json!({"mode": "sev_snp", "policy": 0x3_0000, "runtime": HASH, "measurements": measurements()})
}

fn ordinary_gpu() -> Value {
    json!([{"vendor": "NVIDIA", "device_name": "H100", "device_class": "0302", "device_id": "10de:2331"}])
}

fn confidential_gpu() -> Value {
    json!({"vendor": "nvidia", "arch": "hopper", "count": 1, "mode": "cc"})
}

fn program(gpu: Option<Value>) -> Value {
    let mut content = json!({
        "address": "0xB136a85c95a0ea573793AcB739c7dB682B9c7d0f", "time": 1_787_011_200.0,
        "allow_amend": false,
        "resources": {"vcpus": 8, "memory": 65536, "seconds": 30},
        "payment": {"type": "credit"},
        "environment": {"internet": true},
        "runtime": {"ref": HASH, "comment": ""},
        "workload": {"ref": HASH, "hash_tree": HASH, "roothash": HASH},
        "verification": {"backend": "sev_snp", "policy": 0x3_0000, "measurements": measurements()},
        "volumes": []
    });
    if let Some(gpu) = gpu {
        content["gpu"] = gpu;
    }
    content
}

#[test]
fn an_ordinary_instance_can_be_read_by_its_host() {
    for gpus in [Value::Null, ordinary_gpu()] {
        let content = read(&instance(&Value::Null, &gpus));
        assert_eq!(content.trust_line().ok(), Some(TrustLine::HostReads));
        assert_eq!(refused(content.policy(NOW)), "attest_not_measured");
    }
}

#[test]
fn plain_sev_is_no_measured_vm() {
    for execution in [json!({"policy": 1}), json!({"mode": "sev", "policy": 1})] {
        let content = read(&instance(&execution, &Value::Null));
        assert_eq!(content.trust_line().ok(), Some(TrustLine::HostReads));
    }
}

#[test]
fn a_measured_vm_with_an_ordinary_gpu_is_refused() {
    let content = read(&instance(&snp(), &ordinary_gpu()));
    assert_eq!(refused(content.trust_line()), "attest_plain_gpu");
    assert_eq!(refused(content.policy(NOW)), "attest_plain_gpu");
}

#[test]
fn a_measured_instance_pins_what_it_is_checked_against() {
    let content = read(&instance(&snp(), &json!([])));
    assert_eq!(
        content.trust_line().ok(),
        Some(TrustLine::Measured { gpu: false })
    );
    let policy = content.policy(NOW).expect("it is measured");
    assert_eq!(policy.measurements, [Measurement([0xAB; 48])]);
    assert_eq!(policy.guest_policy, Some(0x3_0000));
    let mut execution = snp();
    execution["gpu"] = confidential_gpu();
    let content = read(&instance(&execution, &Value::Null));
    assert_eq!(content.trust_line().ok(), Some(TrustLine::Measured { gpu: true }));
}

#[test]
fn a_v_program_pins_what_it_is_checked_against() {
    for (gpu, has) in [(None, false), (Some(confidential_gpu()), true)] {
        let content = read(&program(gpu));
        assert_eq!(content.trust_line().ok(), Some(TrustLine::Measured { gpu: has }));
        let policy = content.policy(NOW).expect("it is measured");
        assert_eq!(policy.measurements, [Measurement([0xAB; 48])]);
        assert_eq!(policy.guest_policy, Some(0x3_0000));
    }
}

#[test]
fn what_is_no_content_is_refused() {
    for json in ["", "[]", "{}", r#"{"verification":{}}"#] {
        assert_eq!(refused(Content::read(json.as_bytes())), "attest_content");
    }
}
