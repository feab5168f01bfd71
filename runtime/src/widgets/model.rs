//! Models: state that is shared with the clients.
//!
//! Protocol: "Jupyter widgets messaging protocol", version 2.1.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use alephlab_link::{
    CommEvent, CommKind, HeardEvent, MimeBundle, ToKernel, ToldEvent, read_frame, write_frame,
};
use serde_json::{Map, Value, json};

use super::binary::{Binary, paths_of};
use crate::child;
use crate::display::Bundle;
use crate::interrupt::{check_interrupt, not_meant};

/// Version of the protocol, in the metadata of each opened comm.
const PROTOCOL_VERSION: &str = "2.1.0";
/// Target of every widget's comm.
const WIDGET_TARGET: &str = "jupyter.widget";
/// Target of the comm that a client opens to ask for all states at once.
const CONTROL_TARGET: &str = "jupyter.widget.control";
/// Module of the controls in the client, and its version.
const CONTROLS: (&str, &str) = ("@jupyter-widgets/controls", "2.0.0");
/// The same of layouts.
const BASE: (&str, &str) = ("@jupyter-widgets/base", "2.0.0");
/// Most bytes of binary parts in the answer to who asks for all states.
const STATES_BYTES_MAX: usize = 16 << 20;
/// How often a cell that waits for the person looks for an interrupt.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// State of a widget: name to value.
pub(super) type State = Map<String, Value>;
/// Called with the new state, or with what the client said.
type Callback = Arc<dyn Fn(&Value) + Send + Sync>;

/// A widget's model.
pub(super) struct Model {
    id: String,
    state: Mutex<State>,
    /// Binary parts of the state, which clients send and are sent beside it.
    binary: Mutex<Vec<Binary>>,
    changed: Condvar,
    /// Called when a client has changed the value.
    on_change: Mutex<Vec<Callback>>,
    /// Called when a client says something else, a click for example.
    on_message: Mutex<Vec<Callback>>,
}

static MODELS: Mutex<BTreeMap<String, Arc<Model>>> = Mutex::new(BTreeMap::new());
/// Set when somebody listens to the clients, or there is no kernel.
static LISTENER: OnceLock<()> = OnceLock::new();

impl Model {
    /// Opens a model of the controls' module. Its layout and style are models of their own.
    pub(super) fn open(name: &str, style: &str, mut state: State) -> Arc<Self> {
        LISTENER.get_or_init(listen);
        let layout = Self::open_raw("LayoutModel", "LayoutView", BASE, State::new());
        state.insert("layout".to_owned(), reference(&layout.id));
        let mut own = State::new();
        if style != "ButtonStyleModel" {
            // Long labels are not cut off.
            own.insert("description_width".to_owned(), json!("initial"));
        }
        let style = Self::open_raw(style, "StyleView", CONTROLS, own);
        state.insert("style".to_owned(), reference(&style.id));
        // Bars of both kinds of numbers have one view.
        let view = name
            .replace("FloatProgressModel", "ProgressModel")
            .replace("Model", "View");
        Self::open_raw(name, &view, CONTROLS, state)
    }

    fn open_raw(name: &str, view: &str, module: (&str, &str), own: State) -> Arc<Self> {
        let view_module = if view == "StyleView" { BASE } else { module };
        let mut state = State::new();
        for (key, value) in [
            ("_model_name", name),
            ("_model_module", module.0),
            ("_model_module_version", module.1),
            ("_view_name", view),
            ("_view_module", view_module.0),
            ("_view_module_version", view_module.1),
        ] {
            state.insert(key.to_owned(), json!(value));
        }
        state.extend(own);
        let model = Arc::new(Self {
            id: uuid::Uuid::new_v4().simple().to_string(),
            state: Mutex::new(state.clone()),
            binary: Mutex::default(),
            changed: Condvar::new(),
            on_change: Mutex::default(),
            on_message: Mutex::default(),
        });
        lock(&MODELS).insert(model.id.clone(), Arc::clone(&model));
        let mut metadata = MimeBundle::new();
        metadata.insert("version".to_owned(), json!(PROTOCOL_VERSION));
        let data = json!({ "state": state, "buffer_paths": [] });
        send(CommEvent {
            metadata,
            ..CommEvent::open(&model.id, WIDGET_TARGET, data)
        });
        model
    }

    /// One value of the state; null when there is none.
    pub(super) fn get(&self, name: &str) -> Value {
        lock(&self.state).get(name).cloned().unwrap_or_default()
    }

    /// Looks at the state with its binary parts, of one moment.
    pub(super) fn look<T>(&self, look: impl FnOnce(&State, &[Binary]) -> T) -> T {
        let state = lock(&self.state);
        look(&state, &lock(&self.binary))
    }

    /// Changes the state, here and in all clients.
    pub(super) fn set(&self, name: &str, value: Value) {
        lock(&self.state).insert(name.to_owned(), value.clone());
        self.changed.notify_all();
        let mut state = State::new();
        state.insert(name.to_owned(), value);
        self.say("update", &state);
    }

    /// Calls `callback` with the value whenever a client has changed it.
    pub(super) fn on_change(&self, callback: impl Fn(&Value) + Send + Sync + 'static) {
        lock(&self.on_change).push(Arc::new(callback));
    }

    /// Calls `callback` with what a client says beside changes.
    pub(super) fn on_message(&self, callback: impl Fn(&Value) + Send + Sync + 'static) {
        lock(&self.on_message).push(Arc::new(callback));
    }

    /// Waits until the state satisfies a condition, or the person interrupts.
    pub(super) fn wait_until(&self, holds: impl Fn(&State) -> bool) {
        let mut state = lock(&self.state);
        while !holds(&state) {
            let waited = self.changed.wait_timeout(state, LOOK_EVERY);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if crate::interrupt::requested() {
                drop(state);
                check_interrupt();
                return;
            }
        }
    }

    /// Changes something that clients need not know.
    pub(super) fn note(&self, change: impl FnOnce(&mut State)) {
        change(&mut lock(&self.state));
        self.changed.notify_all();
    }

    /// The view, with words for clients that cannot draw it.
    pub(super) fn bundle(&self, text: &str) -> Bundle {
        let view = json!({ "version_major": 2, "version_minor": 0, "model_id": self.id });
        Bundle::new()
            .text(text)
            .with("application/vnd.jupyter.widget-view+json", view)
    }

    /// Tells all clients a part of the state, with what is binary in it.
    fn say(&self, method: &str, state: &State) {
        let binary = lock(&self.binary).clone();
        let (paths, buffers) = paths_of(binary.into_iter().filter(|one| one.is_in(state)));
        let data = json!({ "method": method, "state": state, "buffer_paths": paths });
        send(CommEvent {
            buffers,
            ..CommEvent::message(&self.id, data)
        });
    }

    /// What a client sent.
    pub(super) fn hear(&self, data: &Value, buffers: Vec<Vec<u8>>) {
        match data["method"].as_str() {
            Some("update") => self.take(&data["state"], Binary::of(&data["buffer_paths"], buffers)),
            Some("request_state") => {
                let state = lock(&self.state).clone();
                self.say("update", &state);
            }
            Some("custom") => self.call(&self.on_message, &data["content"]),
            _ => {}
        }
    }

    /// Takes a client's change over, and tells the other clients.
    fn take(&self, change: &Value, parts: Vec<Binary>) {
        let Some(change) = change.as_object() else { return };
        let names = change.keys().chain(parts.iter().map(Binary::name));
        let changed: State = names
            .map(|name| (name.clone(), change.get(name).cloned().unwrap_or_default()))
            .collect();
        let is_binary = !parts.is_empty();
        let mut state = lock(&self.state);
        state.extend(changed.clone());
        let mut binary = lock(&self.binary);
        binary.retain(|one| !one.is_in(&changed));
        binary.extend(parts);
        drop((state, binary));
        self.changed.notify_all();
        // Files are not sent back to who sent them, nor to the others: they are the code's.
        if !is_binary {
            self.say("echo_update", &changed);
        }
        if let Some(value) = changed.get("value") {
            self.call(&self.on_change, value);
        }
    }

    fn call(&self, callbacks: &Mutex<Vec<Callback>>, value: &Value) {
        // A callback may add others.
        let callbacks = lock(callbacks).clone();
        for callback in callbacks {
            // The panic itself is told by the panic hook.
            let call = AssertUnwindSafe(|| not_meant(|| callback(value)));
            let _ = catch_unwind(call);
        }
        let _ = std::io::stdout().flush();
    }
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

fn reference(id: &str) -> Value {
    json!(format!("IPY_MODEL_{id}"))
}

fn send(event: CommEvent) {
    let answers = ANSWERING.get();
    let _ = child::call(&ToKernel::Comm { event, answers });
}

/// Hears the clients, on a thread of its own, until the kernel is gone.
fn listen() {
    let Some(stream) = child::hear_comms() else { return };
    let thread = std::thread::Builder::new().name("widgets".into());
    // Without a thread the widgets are drawn, and stand still.
    let _ = thread.spawn(move || hear_all(stream));
}

fn hear_all(mut stream: UnixStream) {
    while let Ok(ToldEvent { number, event }) = read_frame(&mut stream) {
        ANSWERING.set(Some(number));
        hear_event(event);
        ANSWERING.set(None);
        // The client is told that it was heard, and sends no more than the code can follow.
        if write_frame(&mut stream, &HeardEvent { number }).is_err() {
            return;
        }
    }
}

thread_local! {
    /// Number of what a client said, while this thread does what is to be done about it.
    static ANSWERING: Cell<Option<u64>> = const { Cell::new(None) };
}

fn hear_event(event: CommEvent) {
    let comm_id = event.comm_id;
    match event.kind {
        CommKind::Open { target_name } if target_name == CONTROL_TARGET => lock(&CONTROLS_OPEN).push(comm_id),
        CommKind::Open { .. } => send(CommEvent::close(comm_id)),
        CommKind::Message => hear(&comm_id, &event.data, event.buffers),
        CommKind::Close => {
            lock(&CONTROLS_OPEN).retain(|open| *open != comm_id);
            lock(&MODELS).remove(&comm_id);
        }
    }
}

/// Comms over which clients ask for all states.
static CONTROLS_OPEN: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn hear(comm_id: &str, data: &Value, buffers: Vec<Vec<u8>>) {
    if lock(&CONTROLS_OPEN).iter().any(|open| open == comm_id) {
        if data["method"] == "request_states" {
            send(states(comm_id));
        }
        return;
    }
    let model = lock(&MODELS).get(comm_id).cloned();
    if let Some(model) = model {
        model.hear(data, buffers);
    }
}

/// Every model, as a client asks for them over `comm_id` after it has loaded a notebook again.
fn states(comm_id: &str) -> CommEvent {
    let models = lock(&MODELS);
    let mut all = State::new();
    let mut binary = Vec::new();
    for model in models.values() {
        model.look(|state, parts| {
            let described = json!({
                "model_name": state["_model_name"],
                "model_module": state["_model_module"],
                "model_module_version": state["_model_module_version"],
                "state": state,
            });
            all.insert(model.id.clone(), described);
            binary.extend(parts.iter().map(|part| part.below(&[&model.id, "state"])));
        });
    }
    // A message that is too large would reach nobody, and no widget would be drawn.
    if binary.iter().map(Binary::len).sum::<usize>() > STATES_BYTES_MAX {
        binary.clear();
    }
    let (paths, buffers) = paths_of(binary);
    let data = json!({ "method": "update_states", "states": all, "buffer_paths": paths });
    CommEvent {
        buffers,
        ..CommEvent::message(comm_id, data)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn slider(value: f64) -> Arc<Model> {
        let mut state = State::new();
        state.insert("value".to_owned(), json!(value));
        Model::open("FloatSliderModel", "SliderStyleModel", state)
    }

    #[test]
    fn a_model_names_its_view_its_layout_and_its_style() {
        let model = slider(0.5);
        let states = states("control").data["states"].take();
        let state = &states[&model.id]["state"];
        assert_eq!(state["_view_name"], "FloatSliderView");
        assert_eq!(state["_model_module"], "@jupyter-widgets/controls");
        for (part, name) in [("layout", "LayoutModel"), ("style", "SliderStyleModel")] {
            let id = state[part].as_str().unwrap().strip_prefix("IPY_MODEL_").unwrap();
            assert_eq!(states[id]["model_name"], name);
        }
    }

    #[test]
    fn a_clients_change_is_taken_over_and_told_to_callbacks_also_when_one_of_them_panics() {
        let model = slider(0.5);
        let heard = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&heard);
        model.on_change(|_| panic!("a callback of the person's"));
        model.on_change(move |value| {
            count.store(value.as_u64().unwrap(), Ordering::SeqCst);
        });
        hear(
            &model.id,
            &json!({ "method": "update", "state": { "value": 7 } }),
            Vec::new(),
        );
        assert_eq!((model.get("value"), heard.load(Ordering::SeqCst)), (json!(7), 7));
        hear(&model.id, &json!({ "method": "unknown" }), Vec::new());
        hear(&model.id, &json!("no object"), vec![vec![1]]);
        assert_eq!(model.get("value"), json!(7));
    }

    #[test]
    fn who_waits_is_woken_by_a_change() {
        let model = slider(0.0);
        let other = Arc::clone(&model);
        let waiting = std::thread::spawn(move || other.wait_until(|state| state["value"] == 1));
        model.set("value", json!(1));
        waiting.join().unwrap();
    }
}
