//! What clients are told while a rented host starts, which takes minutes: Jupyter's clients wait for a kernel's information
//! before they send a cell, and some give up after 42 s. The gateway answers for the kernel, and each cell that waits says
//! what for.

use std::sync::PoisonError;

use alephlab_api::jupyter::Channel;
use alephlab_api::kernel::KernelState;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Live, Status};
use crate::framing::KernelMessage;

impl Live {
    fn starts_elsewhere(&self) -> bool {
        self.rental.is_some() && self.status().state == KernelState::Starting
    }

    /// What its start waits for, in words.
    pub(super) fn waits_for(&self, text: &str) {
        self.status.send_if_modified(|status| {
            let new = status.state == KernelState::Starting && status.reason.as_deref() != Some(text);
            if new {
                *status = Status {
                    state: KernelState::Starting,
                    reason: Some(text.to_owned()),
                };
            }
            new
        });
    }

    /// The same, told once under the cell that waits: the start has come further.
    pub(super) fn comes_to(&self, text: &str) {
        self.waits_for(text);
        let newest = self.newest_cell.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = newest.is_some();
        drop(newest);
        if waits && self.starts_elsewhere() {
            self.say(&format!("{}.", capital(text)));
        }
    }

    /// Answers what a client asks of a kernel whose host is not there yet; false for what the kernel is to hear itself.
    pub(super) fn answers_while_starting(&self, client: Uuid, message: &KernelMessage) -> bool {
        if !self.starts_elsewhere() {
            return false;
        }
        match message.msg_type.as_str() {
            "kernel_info_request" => {
                let says = |state: &str| {
                    let content = json!({ "execution_state": state });
                    KernelMessage::answer(Channel::Iopub, "status", message, &content)
                };
                let info =
                    KernelMessage::answer(message.channel, "kernel_info_reply", message, &kernel_info());
                for answer in [says("busy"), info, says("idle")] {
                    self.relay.push(Some(client), answer);
                }
                true
            }
            "execute_request" => {
                self.cell_waits(client, message);
                false
            }
            _ => false,
        }
    }

    fn cell_waits(&self, client: Uuid, request: &KernelMessage) {
        let hardware = self.rental.as_ref().map_or("the host", |offer| &offer.hardware);
        let now = self
            .status()
            .reason
            .unwrap_or_else(|| "it is being rented".to_owned());
        let text = format!(
            "This cell runs as soon as {hardware} is there; nothing is charged until then. Now: {now}."
        );
        let notice = KernelMessage::sentence(&text).under(request);
        let mut newest = self.newest_cell.lock().unwrap_or_else(PoisonError::into_inner);
        // What is said next stands under the first cell that waits.
        newest.get_or_insert_with(|| notice.clone());
        drop(newest);
        self.relay.push(Some(client), notice);
    }
}

/// As our kernel tells it; what depends on its host is left out.
fn kernel_info() -> Value {
    json!({
        "status": "ok", "protocol_version": "5.4",
        "implementation": "alephlab", "implementation_version": env!("CARGO_PKG_VERSION"),
        "language_info": {
            "name": "rust", "version": env!("CARGO_PKG_RUST_VERSION"), "mimetype": "text/x-rust",
            "file_extension": ".rs", "pygments_lexer": "rust", "codemirror_mode": "rust",
            "nbconvert_exporter": "script",
        },
        "banner": concat!("Alephlab ", env!("CARGO_PKG_VERSION"), " \u{b7} its host is starting"),
        "help_links": [], "supported_features": [],
    })
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
