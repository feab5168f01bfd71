//! One execution as the evaluator sees it: where its text, displays and questions go.
//!
//! A limit: text, displays and questions of a thread that outlives its cell are attributed to the newest cell,
//! running or ended, and not to the cell that started the thread: nothing in a stream tells who wrote to it. Made
//! by [`crate::execute`], used by the evaluators. Not here: the reply, status and the execution count's rules.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use alephlab_link::{Client, CommEvent, MimeBundle};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::iopub::{Publisher, Stream, StreamBuffer};
use crate::socket::Questions;
use crate::wire::Parent;

/// Where the output of an execution goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Audience {
    /// To all clients.
    Everyone,
    /// Nowhere (`silent`), or into the reply (`user_expressions`).
    Nobody,
}

/// What there is to know about an execution before it begins.
pub(crate) struct Setup {
    pub(crate) audience: Audience,
    pub(crate) execution_count: u32,
    pub(crate) client: Client,
    /// Empty where `allow_stdin` is false.
    pub(crate) questions: Option<(Questions, Vec<Bytes>)>,
    pub(crate) interrupted: CancellationToken,
    pub(crate) upcoming: Option<Upcoming>,
}

/// One execution.
pub struct Cell {
    publisher: Arc<Publisher>,
    parent: Parent,
    streams: Option<Arc<StreamBuffer>>,
    execution_count: u32,
    client: Client,
    questions: Option<(Questions, Vec<Bytes>)>,
    handle: Handle,
    /// Set when the person asks to stop this execution.
    pub(crate) interrupted: CancellationToken,
    upcoming: Option<Upcoming>,
    state: Mutex<State>,
}

/// Text of the execution that waits behind this one, when there is one.
pub(crate) type Upcoming = Arc<dyn Fn() -> Option<String> + Send + Sync>;

#[derive(Default)]
struct State {
    result: Option<(MimeBundle, MimeBundle)>,
    payload: Vec<Value>,
}

impl Cell {
    /// A cell that answers `parent`.
    pub(crate) fn new(publisher: &Arc<Publisher>, parent: &Parent, setup: Setup) -> Arc<Self> {
        let streams = (setup.audience == Audience::Everyone)
            .then(|| StreamBuffer::new(Arc::clone(publisher), parent.clone()));
        Arc::new(Self {
            publisher: Arc::clone(publisher),
            parent: parent.clone(),
            streams,
            execution_count: setup.execution_count,
            client: setup.client,
            questions: setup.questions,
            handle: Handle::current(),
            interrupted: setup.interrupted,
            upcoming: setup.upcoming,
            state: Mutex::default(),
        })
    }

    /// Whether the person asked to stop this execution.
    pub fn is_interrupted(&self) -> bool {
        self.interrupted.is_cancelled()
    }

    /// Number of this execution, as the client shows it.
    pub fn execution_count(&self) -> u32 {
        self.execution_count
    }

    /// What kind of client sent it.
    pub fn client(&self) -> Client {
        self.client
    }

    /// Text of the execution that will come next, if nothing fails: its compiler may start already.
    pub fn upcoming(&self) -> Option<String> {
        self.upcoming.as_ref()?()
    }

    /// Text that the code wrote; any bytes, a character may be cut.
    pub fn text(&self, stream: Stream, bytes: &[u8]) {
        if let Some(streams) = &self.streams {
            streams.push(stream, bytes);
        }
    }

    /// Publishes all text that still waits for more.
    pub fn flush(&self) {
        if let Some(streams) = &self.streams {
            streams.flush();
        }
    }

    /// Shows something in the middle of the cell.
    pub fn display(&self, data: &MimeBundle, metadata: &MimeBundle, display_id: Option<&str>) {
        self.publish("display_data", &display_content(data, metadata, display_id));
    }

    /// Replaces what was shown under a name.
    pub fn update_display(&self, data: &MimeBundle, metadata: &MimeBundle, display_id: &str) {
        self.publish(
            "update_display_data",
            &display_content(data, metadata, Some(display_id)),
        );
    }

    /// Removes the output so far.
    pub fn clear_output(&self, wait: bool) {
        self.publish("clear_output", &json!({ "wait": wait }));
    }

    /// The value of the cell.
    pub fn result(&self, data: MimeBundle, metadata: MimeBundle) {
        let content = json!({ "execution_count": self.execution_count, "data": data, "metadata": metadata, "transient": {} });
        self.publish("execute_result", &content);
        self.lock().result = Some((data, metadata));
    }

    /// A longer text that the client shows apart from the outputs.
    pub fn page(&self, data: &MimeBundle) {
        self.lock()
            .payload
            .push(json!({ "source": "page", "data": data, "start": 0 }));
    }

    /// Puts text into a new cell below, or in place of the cell's own.
    pub fn set_next_input(&self, text: &str, replace: bool) {
        self.lock()
            .payload
            .push(json!({ "source": "set_next_input", "text": text, "replace": replace }));
    }

    /// Tells all clients something on a comm, also from a silent execution. What answers a client's own message has
    /// that as its parent: the client takes it for its own then.
    pub fn comm(&self, event: &CommEvent, answered: Option<&Parent>) {
        self.flush();
        let (msg_type, content) = crate::comms::message(event);
        let metadata = Value::Object(event.metadata.clone());
        let buffers = event.buffers.iter().cloned().map(Bytes::from).collect();
        let parent = answered.unwrap_or(&self.parent);
        self.publisher
            .publish_binary(msg_type, parent, &metadata, &content, buffers);
    }

    /// Asks the person who sent this execution for a line. `None` where that is not allowed, the client is
    /// gone or the person interrupted.
    pub async fn input(&self, prompt: &str, password: bool) -> Option<String> {
        let (questions, identities) = self.questions.as_ref()?;
        self.flush();
        tokio::select! {
            () = self.interrupted.cancelled() => None,
            answer = questions.ask(identities, &self.parent, prompt, password) => answer,
        }
    }

    /// As [`Cell::input`], for an evaluator's own thread.
    pub fn input_blocking(&self, prompt: &str, password: bool) -> Option<String> {
        self.handle.block_on(self.input(prompt, password))
    }

    /// Data and metadata of the result, when there was one.
    pub(crate) fn captured(&self) -> Option<(MimeBundle, MimeBundle)> {
        self.lock().result.clone()
    }

    pub(crate) fn take_payload(&self) -> Vec<Value> {
        std::mem::take(&mut self.lock().payload)
    }

    fn publish(&self, msg_type: &str, content: &Value) {
        if let Some(streams) = &self.streams {
            streams.flush();
            self.publisher.publish(msg_type, &self.parent, content);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn display_content(data: &MimeBundle, metadata: &MimeBundle, display_id: Option<&str>) -> Value {
    // Always an object: some clients fail on null.
    let transient = display_id.map_or_else(|| json!({}), |id| json!({ "display_id": id }));
    json!({ "data": data, "metadata": metadata, "transient": transient })
}
