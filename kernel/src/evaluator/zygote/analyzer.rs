//! evcxr's rust-analyzer, on a thread of its own: started when somebody first asks for more than names.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use alephlab_link::MimeBundle;
use tokio::runtime::Handle;

use crate::comms::Comms;
use crate::evaluator::link::shared::Shared;
use crate::evaluator::{Completions, RustConfig, STACK_BYTES, evcxr};
use crate::template::Template;

/// How long a question waits for the analyzer: a client gives up at some time too.
const PATIENCE: Duration = Duration::from_secs(12);

/// Answers from any thread; questions wait for each other.
pub(super) struct Analyzer {
    config: RustConfig,
    template: Template,
    handle: Handle,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    questions: Option<mpsc::Sender<Question>>,
    dependencies: Vec<String>,
}

enum Question {
    Complete {
        text: String,
        cursor: usize,
        answer: mpsc::Sender<Completions>,
    },
    Inspect {
        text: String,
        cursor: usize,
        answer: mpsc::Sender<Option<MimeBundle>>,
    },
    Depend(String),
}

impl Analyzer {
    pub(super) fn new(config: RustConfig, template: Template, handle: Handle) -> Self {
        Self {
            config,
            template,
            handle,
            state: Mutex::default(),
        }
    }

    /// Tells it of a crate: the text behind `:dep`.
    pub(super) fn depend(&self, line: &str) {
        let mut state = self.lock();
        state.dependencies.push(line.to_owned());
        if let Some(questions) = &state.questions {
            let _ = questions.send(Question::Depend(line.to_owned()));
        }
    }

    pub(super) fn complete(&self, text: String, cursor: usize) -> Option<Completions> {
        let (answer, answered) = mpsc::channel();
        self.ask(Question::Complete { text, cursor, answer });
        self.wait(&answered)
    }

    pub(super) fn inspect(&self, text: String, cursor: usize) -> Option<MimeBundle> {
        let (answer, answered) = mpsc::channel();
        self.ask(Question::Inspect { text, cursor, answer });
        self.wait(&answered).flatten()
    }

    fn wait<T>(&self, answered: &mpsc::Receiver<T>) -> Option<T> {
        match answered.recv_timeout(PATIENCE) {
            Ok(answer) => Some(answer),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                // It has ended: the next question starts another.
                self.lock().questions = None;
                None
            }
        }
    }

    fn ask(&self, question: Question) {
        self.start();
        if let Some(questions) = &self.lock().questions {
            let _ = questions.send(question);
        }
    }

    /// Starts it, when it does not run: whoever completes a name will soon ask for more.
    pub(super) fn start(&self) {
        let mut state = self.lock();
        if state.questions.is_some() {
            return;
        }
        let (questions, queue) = mpsc::channel();
        let (config, template) = (self.config.clone(), self.template.clone());
        let shared = Arc::new(Shared::new(self.handle.clone(), Arc::new(Comms::default())));
        let builder = std::thread::Builder::new()
            .name("analyzer".into())
            .stack_size(STACK_BYTES);
        if builder
            .spawn(move || serve(&config, template, shared, &queue))
            .is_err()
        {
            return;
        }
        for line in &state.dependencies {
            let _ = questions.send(Question::Depend(line.clone()));
        }
        state.questions = Some(questions);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The analyzer's thread: until nobody can ask any more.
fn serve(config: &RustConfig, template: Template, shared: Arc<Shared>, queue: &mpsc::Receiver<Question>) {
    let stopping = Arc::clone(&shared);
    if let Ok(evcxr) = evcxr::start(config, template, shared) {
        while let Ok(question) = queue.recv() {
            match question {
                Question::Complete { text, cursor, answer } => {
                    let _ = answer.send(evcxr.complete(&text, cursor));
                }
                Question::Inspect { text, cursor, answer } => {
                    let _ = answer.send(evcxr.inspect(&text, cursor));
                }
                Question::Depend(line) => evcxr.depend(&line),
            }
        }
    }
    stopping.stop_own();
}
