//! Cards as HTML. Nothing that an owner wrote becomes markup: the parser gives events, and only elements named here are
//! written, with escaped text and attributes of ours. HTML in a card loses its tags, images their pictures.

use pulldown_cmark::{Alignment, CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

/// Longest card that is rendered, bytes; the rest is left out, and said.
const MAX: usize = 256 << 10;
/// Elements inside elements that are written; what is deeper is text.
const DEPTH: usize = 64;

/// A card's Markdown as HTML.
pub(crate) fn html(markdown: &str) -> String {
    let (markdown, is_cut) = cut(markdown);
    let mut writer = Writer::default();
    let options = Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH | Options::ENABLE_TASKLISTS;
    for event in Parser::new_ext(markdown, options) {
        writer.event(event);
    }
    let mut html = writer.html;
    if is_cut {
        html.push_str("<p class=\"muted\">The card goes on; what is left out is in its README.md.</p>");
    }
    html
}

fn cut(markdown: &str) -> (&str, bool) {
    if markdown.len() <= MAX {
        return (markdown, false);
    }
    let end = (0..=MAX).rev().find(|at| markdown.is_char_boundary(*at));
    (&markdown[..end.unwrap_or_default()], true)
}

#[derive(Default)]
struct Writer {
    html: String,
    /// What ends each element that is open.
    open: Vec<&'static str>,
    /// Elements that were too deep to be written.
    too_deep: usize,
    columns: Vec<Alignment>,
    column: usize,
    in_head: bool,
    /// Inside script or style of HTML, whose text is no text.
    hidden: bool,
}

impl Writer {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.start(tag),
            Event::End(tag) => self.end(tag),
            Event::Text(text) => self.text(&text),
            Event::Code(text) => {
                self.html.push_str("<code>");
                self.text(&text);
                self.html.push_str("</code>");
            }
            Event::Html(text) | Event::InlineHtml(text) => self.without_tags(&text),
            Event::SoftBreak => self.html.push('\n'),
            Event::HardBreak => self.html.push_str("<br>"),
            Event::Rule => self.html.push_str("<hr>"),
            Event::TaskListMarker(done) => self.html.push_str(if done { "[x] " } else { "[ ] " }),
            // Of extensions that are not asked for.
            Event::InlineMath(text) | Event::DisplayMath(text) | Event::FootnoteReference(text) => {
                self.text(&text);
            }
        }
    }

    fn open(&mut self, start: &str, end: &'static str) {
        if self.open.len() >= DEPTH {
            self.too_deep += 1;
            return;
        }
        self.html.push_str(start);
        self.open.push(end);
    }

    fn start(&mut self, tag: Tag<'_>) {
        match tag {
            Tag::Paragraph => self.open("<p>", "</p>"),
            // The page's own headings are above a card's.
            Tag::Heading { level, .. } => match level as usize {
                1 | 2 => self.open("<h2>", "</h2>"),
                3 => self.open("<h3>", "</h3>"),
                _ => self.open("<h4>", "</h4>"),
            },
            Tag::BlockQuote(_) => self.open("<blockquote>", "</blockquote>"),
            Tag::CodeBlock(kind) => {
                let label = match &kind {
                    CodeBlockKind::Fenced(language) if !language.is_empty() => {
                        format!("Code, {}", escaped(language))
                    }
                    _ => "Code".to_owned(),
                };
                // It scrolls in itself, so it must be reached by keys and say what it is.
                self.open(
                    &format!(
                        "<div class=\"code\"><pre tabindex=\"0\" role=\"region\" aria-label=\"{label}\">"
                    ),
                    "</pre></div>",
                );
            }
            Tag::List(None) => self.open("<ul>", "</ul>"),
            Tag::List(Some(first)) => self.open(&format!("<ol start=\"{first}\">"), "</ol>"),
            Tag::Item => self.open("<li>", "</li>"),
            Tag::Emphasis => self.open("<em>", "</em>"),
            Tag::Strong => self.open("<strong>", "</strong>"),
            Tag::Strikethrough => self.open("<del>", "</del>"),
            Tag::Link { dest_url, .. } => match address(&dest_url) {
                Some(address) => self.open(
                    &format!("<a href=\"{}\" rel=\"nofollow noopener ugc\">", escaped(address)),
                    "</a>",
                ),
                None => self.open("", ""),
            },
            // Its alternative text stands in for it: this page loads nothing from elsewhere.
            Tag::Image { .. } => self.open("<span class=\"muted\">[image: ", "]</span>"),
            Tag::Table(columns) => {
                self.columns = columns;
                self.open(
                    "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Table\"><table>",
                    "</table></div>",
                );
            }
            Tag::TableHead => {
                (self.in_head, self.column) = (true, 0);
                self.open("<thead><tr>", "</tr></thead>");
            }
            Tag::TableRow => {
                self.column = 0;
                self.open("<tr>", "</tr>");
            }
            Tag::TableCell => {
                let is_right = self.columns.get(self.column) == Some(&Alignment::Right);
                let class = if is_right { " class=\"num\"" } else { "" };
                self.column += 1;
                match self.in_head {
                    true => self.open(&format!("<th{class}>"), "</th>"),
                    false => self.open(&format!("<td{class}>"), "</td>"),
                }
            }
            Tag::HtmlBlock => self.open("<p>", "</p>"),
            Tag::FootnoteDefinition(_)
            | Tag::DefinitionList
            | Tag::DefinitionListTitle
            | Tag::DefinitionListDefinition
            | Tag::Superscript
            | Tag::Subscript
            | Tag::MetadataBlock(_) => self.open("", ""),
        }
    }

    fn end(&mut self, tag: TagEnd) {
        if self.too_deep > 0 {
            self.too_deep -= 1;
            return;
        }
        match tag {
            TagEnd::TableHead => self.in_head = false,
            TagEnd::HtmlBlock => self.hidden = false,
            _ => {}
        }
        if let Some(end) = self.open.pop() {
            self.html.push_str(end);
        }
    }

    fn text(&mut self, text: &str) {
        if !self.hidden {
            escape(&mut self.html, text);
        }
    }

    /// What stands between the tags of a piece of HTML.
    fn without_tags(&mut self, piece: &str) {
        let mut rest = piece;
        while let Some(at) = rest.find('<') {
            self.text(&rest[..at]);
            let tag = &rest[at..];
            let name: String = tag
                .chars()
                .skip(1)
                .take_while(|c| c.is_ascii_alphanumeric() || *c == '/')
                .collect();
            match name.to_ascii_lowercase().as_str() {
                "script" | "style" | "svg" | "iframe" => self.hidden = true,
                "/script" | "/style" | "/svg" | "/iframe" => self.hidden = false,
                "br" | "br/" if !self.hidden => self.html.push_str("<br>"),
                _ => {}
            }
            let end = if tag.starts_with("<!--") { "-->" } else { ">" };
            rest = tag.find(end).map_or("", |at| &tag[at + end.len()..]);
        }
        self.text(rest);
    }
}

/// An address that a card may lead to: of the web, or a place in the page.
fn address(address: &str) -> Option<&str> {
    let address = address.trim();
    let plain = address.chars().all(|c| !c.is_control() && !c.is_whitespace());
    let lower = address.to_ascii_lowercase();
    let known = ["https://", "http://", "mailto:"]
        .iter()
        .any(|scheme| lower.starts_with(scheme));
    (plain && known).then_some(address)
}

fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    escape(&mut html, text);
    html
}

fn escape(html: &mut String, text: &str) {
    for letter in text.chars() {
        match letter {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            letter if letter.is_control() && !matches!(letter, '\n' | '\t') => {
                html.push('\u{fffd}');
            }
            letter => html.push(letter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_lists_tables_and_code_are_written() {
        let card = "# Digits\n\nReads *digits*.\n\n- one\n- two\n\n| a | b |\n|---|--:|\n| x | 1 |\n\n```rust\nlet a = \"<b>\";\n```\n";
        let html = html(card);
        for part in [
            "<h2>Digits</h2>",
            "<em>digits</em>",
            "<li>one</li>",
            "<th class=\"num\">b</th>",
            "<td class=\"num\">1</td>",
            "aria-label=\"Code, rust\"",
            "&quot;&lt;b&gt;&quot;",
        ] {
            assert!(html.contains(part), "{part} in {html}");
        }
    }

    #[test]
    fn what_an_owner_writes_becomes_no_markup() {
        for (card, never) in [
            ("<script>alert(1)</script>", "alert"),
            ("<img src=x onerror=alert(1)>", "onerror"),
            ("[a](javascript:alert(1))", "javascript"),
            ("[a](JaVaScRiPt:alert(1))", "ript:"),
            ("[a](data:text/html,x)", "data:"),
            ("![a](https://evil.example/x.png)", "evil"),
            ("a <b onclick=\"x\">b</b>", "onclick"),
            ("<style>body{}</style>", "body"),
            ("<iframe src=https://evil.example></iframe>", "evil"),
            ("[a](https://x.example/\"onmouseover=\"y)", "\"onmouseover"),
            ("```\"><script>\nx\n```", "<script"),
            ("<svg><animate onbegin=alert(1)></svg>", "onbegin"),
            ("<!-- <script> -->", "script"),
            ("[a](//evil.example)", "evil"),
            ("<a hx-get=/settings hx-trigger=load>a</a>", "hx-"),
            ("<b data-hx-get=\"/settings\">a</b>", "hx-"),
        ] {
            let html = html(card);
            assert!(!html.contains(never), "{never} in {html}");
        }
        assert!(html("a <b>bold</b> <br> c").contains("a bold <br> c"));
        assert!(html("<div align=center>\n\nx\n\n</div>").contains("<p>x</p>"));
    }

    #[test]
    fn depth_and_length_are_bounded_and_elements_end() {
        let deep = format!("{}x", "> ".repeat(5_000));
        let html_of_deep = html(&deep);
        assert_eq!(
            html_of_deep.matches("<blockquote>").count(),
            html_of_deep.matches("</blockquote>").count()
        );
        assert!(html_of_deep.matches("<blockquote>").count() <= DEPTH);
        let long = html(&"é ".repeat(MAX));
        assert!(long.len() < 2 * MAX + 1_000 && long.contains("The card goes on"));
    }
}
