//! rust-analyzer on a thread of its own, loaded when somebody first asks for more than names.
//!
//! It is the one that evcxr brings, asked directly: evcxr's own way takes in the whole notebook for each question
//! (docs/adr/0009-rust-analyzer.md). It never runs a cell. Questions are answered one after the other; who has stopped
//! waiting is passed over.

mod answers;
mod project;

use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use alephlab_link::MimeBundle;

pub(super) use self::project::Manifest;
use self::project::Project;
use crate::evaluator::{Completions, STACK_BYTES};

/// How long a question waits: loading takes seconds, and a client gives up at some time too.
const PATIENCE: Duration = Duration::from_secs(12);
/// Asked of a project that was just loaded, so that the first question of a person's need not work out std.
const WARMING: &str =
    "fn warm() { let text = String::new(); let list: Vec<String> = Vec::new(); list.iter().map(|one| one.";

/// What stands in our file, and where in it the person is.
#[derive(Debug, Clone)]
pub(super) struct Document {
    pub(super) text: String,
    /// Where the cell's text begins, in bytes.
    pub(super) start: usize,
    /// Where the cursor is, in bytes from the beginning of the file.
    pub(super) cursor: usize,
}

/// Answers from any thread.
#[derive(Default)]
pub(super) struct Analyzer {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    questions: Option<mpsc::Sender<Question>>,
    /// Counts threads: one that has ended must not take its successor with it.
    thread: u64,
    /// Whether questions are answered in milliseconds.
    is_warm: bool,
}

enum Question {
    Complete(Asked<Option<Completions>>),
    Inspect(Asked<Option<MimeBundle>>),
    /// Be ready.
    Load(Manifest),
}

struct Asked<T> {
    manifest: Manifest,
    document: Document,
    deadline: Instant,
    answer: mpsc::Sender<T>,
}

impl Analyzer {
    /// Whether questions are answered in milliseconds.
    pub(super) fn is_warm(&self) -> bool {
        self.lock().is_warm
    }

    /// Starts it, when it does not run: whoever completes a name will soon ask for more.
    pub(super) fn load(self: &Arc<Self>, manifest: Manifest) {
        if self.lock().questions.is_none() {
            self.send(Question::Load(manifest));
        }
    }

    pub(super) fn complete(self: &Arc<Self>, manifest: Manifest, document: Document) -> Option<Completions> {
        self.ask(manifest, document, Question::Complete)
    }

    pub(super) fn inspect(self: &Arc<Self>, manifest: Manifest, document: Document) -> Option<MimeBundle> {
        self.ask(manifest, document, Question::Inspect)
    }

    fn ask<T>(
        self: &Arc<Self>,
        manifest: Manifest,
        document: Document,
        question: impl FnOnce(Asked<Option<T>>) -> Question,
    ) -> Option<T> {
        let (answer, answered) = mpsc::channel();
        let thread = self.send(question(Asked {
            manifest,
            document,
            deadline: Instant::now() + PATIENCE,
            answer,
        }));
        match answered.recv_timeout(PATIENCE) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                // It has ended: the next question starts another.
                self.forget(thread);
                None
            }
        }
    }

    /// Hands a question over; which thread has it.
    fn send(self: &Arc<Self>, question: Question) -> u64 {
        let mut state = self.lock();
        if state.questions.is_none() {
            let (questions, queue) = mpsc::channel();
            let own = Arc::clone(self);
            let builder = std::thread::Builder::new()
                .name("analyzer".into())
                .stack_size(STACK_BYTES);
            state.thread += 1;
            let thread = state.thread;
            let serving = builder.spawn(move || {
                serve(&own, &queue);
                own.forget(thread);
            });
            if serving.is_err() {
                return thread;
            }
            state.questions = Some(questions);
        }
        if let Some(questions) = &state.questions {
            let _ = questions.send(question);
        }
        state.thread
    }

    fn forget(&self, thread: u64) {
        let mut state = self.lock();
        if state.thread == thread {
            state.questions = None;
            state.is_warm = false;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The analyzer's thread. Ends when a project cannot be loaded; the next question tries again.
fn serve(analyzer: &Analyzer, queue: &mpsc::Receiver<Question>) {
    let mut project: Option<Project> = None;
    while let Ok(question) = queue.recv() {
        let manifest = question.manifest().clone();
        if project.as_ref().is_none_or(|loaded| loaded.manifest != manifest) {
            analyzer.lock().is_warm = false;
            let (started, folder) = (Instant::now(), manifest.folder.clone());
            // Not two at a time: each is a gigabyte.
            drop(project.take());
            match Project::load(manifest) {
                Ok(loaded) => project = Some(loaded),
                // The folder goes with the kernel.
                Err(_) if !folder.exists() => return,
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "no completion but of names");
                    return;
                }
            }
            tracing::debug!(took = ?started.elapsed(), ?project, "rust-analyzer is loaded");
            project.iter().for_each(Project::warm);
            tracing::debug!(took = ?started.elapsed(), "rust-analyzer is warm");
        }
        let Some(loaded) = project.as_mut() else { return };
        question.answer(loaded);
        if !analyzer.is_warm() {
            let document = Document {
                text: WARMING.to_owned(),
                start: 0,
                cursor: WARMING.len(),
            };
            let _ = answers::complete(&loaded.with(document.text.clone()), loaded.file, &document);
            analyzer.lock().is_warm = true;
        }
    }
}

impl Question {
    fn manifest(&self) -> &Manifest {
        match self {
            Self::Complete(asked) => &asked.manifest,
            Self::Inspect(asked) => &asked.manifest,
            Self::Load(manifest) => manifest,
        }
    }

    fn answer(self, project: &mut Project) {
        match self {
            Self::Complete(asked) => asked.answer(project, answers::complete),
            Self::Inspect(asked) => asked.answer(project, answers::inspect),
            Self::Load(_) => {}
        }
    }
}

impl<T> Asked<Option<T>> {
    fn answer(
        self,
        project: &mut Project,
        answer: impl FnOnce(&ra_ap_ide::Analysis, ra_ap_ide::FileId, &Document) -> Option<T>,
    ) {
        if Instant::now() < self.deadline {
            let analysis = project.with(self.document.text.clone());
            let _ = self.answer.send(answer(&analysis, project.file, &self.document));
        }
    }
}
