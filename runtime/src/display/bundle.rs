//! One output in several formats.

use alephlab_link::MimeBundle;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// One output in several formats (media types). Built by chaining, richest format last or first: the client
/// chooses.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Bundle {
    data: MimeBundle,
    metadata: MimeBundle,
}

impl Bundle {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds plain text. Give it always: consoles and screen readers need it.
    #[must_use]
    pub fn text(self, text: impl Into<String>) -> Self {
        self.with("text/plain", Value::String(text.into()))
    }

    /// Adds HTML.
    #[must_use]
    pub fn html(self, html: impl Into<String>) -> Self {
        self.with("text/html", Value::String(html.into()))
    }

    /// Adds Markdown.
    #[must_use]
    pub fn markdown(self, markdown: impl Into<String>) -> Self {
        self.with("text/markdown", Value::String(markdown.into()))
    }

    /// Adds an SVG image.
    #[must_use]
    pub fn svg(self, svg: impl Into<String>) -> Self {
        self.with("image/svg+xml", Value::String(svg.into()))
    }

    /// Adds a PNG image, given as the bytes of its file.
    #[must_use]
    pub fn png(self, png: &[u8]) -> Self {
        self.with("image/png", Value::String(STANDARD.encode(png)))
    }

    /// Adds LaTeX, with its dollar signs or environment.
    #[must_use]
    pub fn latex(self, latex: impl Into<String>) -> Self {
        self.with("text/latex", Value::String(latex.into()))
    }

    /// Adds JSON, which clients show as a tree.
    #[must_use]
    pub fn json(self, value: Value) -> Self {
        self.with("application/json", value)
    }

    /// Adds a plot as a Vega-Lite specification, version 5.
    #[must_use]
    pub fn vega_lite(self, specification: Value) -> Self {
        self.with("application/vnd.vegalite.v5+json", specification)
    }

    /// Adds any other media type.
    #[must_use]
    pub fn with(mut self, media_type: &str, value: Value) -> Self {
        self.data.insert(media_type.to_owned(), value);
        self
    }

    /// The plain text, if there is one.
    pub fn as_text(&self) -> Option<&str> {
        self.data.get("text/plain").and_then(Value::as_str)
    }

    /// Data and metadata as the link carries them.
    pub fn into_parts(self) -> (MimeBundle, MimeBundle) {
        (self.data, self.metadata)
    }
}

impl From<MimeBundle> for Bundle {
    fn from(data: MimeBundle) -> Self {
        Self {
            data,
            metadata: MimeBundle::new(),
        }
    }
}

impl From<&str> for Bundle {
    fn from(text: &str) -> Self {
        Self::new().text(text)
    }
}

impl From<String> for Bundle {
    fn from(text: String) -> Self {
        Self::new().text(text)
    }
}

impl super::Rich for Bundle {
    fn bundle(&self) -> Bundle {
        self.clone()
    }
}
