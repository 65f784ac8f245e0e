use std::fmt::Write as _;

/// A page that needs nothing else: style and script are in it, and nothing is fetched.
#[derive(Debug)]
pub(crate) struct Page {
    body: String,
    title: String,
}

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

impl Page {
    pub(crate) fn new(title: &str, lead: &str) -> Self {
        let mut body = String::new();
        let _ = write!(
            body,
            "<header><p class=\"brand\">lighterage</p><h1>{}</h1><p class=\"lead\">{}</p></header>\n<main id=\"main\">\n",
            escape(title),
            escape(lead)
        );
        Self { body, title: title.to_owned() }
    }

    /// A part with a heading; `inner` is HTML.
    pub(crate) fn section(&mut self, name: &str, heading: &str, inner: &str) {
        let _ = write!(
            self.body,
            "<section aria-labelledby=\"{name}-heading\"><h2 id=\"{name}-heading\">{}</h2>\n{inner}</section>\n",
            escape(heading)
        );
    }

    pub(crate) fn finish(self) -> String {
        let Self { body, title } = self;
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
             <meta name=\"color-scheme\" content=\"light dark\">\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:\">\
             <link rel=\"icon\" href=\"data:,\"><title>{}</title>\n<style>\n{STYLE}</style></head>\n<body>\n<a class=\"skip\" href=\"#main\">to the contents</a>\n{body}</main>\n\
             <footer>lighterage {}</footer>\n<script>\n{SCRIPT}</script>\n</body></html>\n",
            escape(&title),
            env!("CARGO_PKG_VERSION"),
        )
    }
}

/// A table: the first column heads its rows, the others are numbers unless `is_text`.
pub(crate) fn table(caption: &str, head: &[&str], rows: &[Vec<String>], is_text: bool) -> String {
    let class = if is_text { "text" } else { "numbers" };
    let mut text = format!(
        "<div class=\"scroll\" tabindex=\"0\" role=\"group\" aria-label=\"{}\"><table class=\"{class}\"><caption>{}</caption><thead><tr>",
        escape(caption),
        escape(caption)
    );
    for cell in head {
        let _ = write!(text, "<th scope=\"col\">{}</th>", escape(cell));
    }
    text.push_str("</tr></thead><tbody>\n");
    for row in rows {
        text.push_str("<tr>");
        for (index, cell) in row.iter().enumerate() {
            let (open, close) = if index == 0 { ("<th scope=\"row\">", "</th>") } else { ("<td>", "</td>") };
            let _ = write!(text, "{open}{}{close}", escape(cell));
        }
        text.push_str("</tr>\n");
    }
    text.push_str("</tbody></table></div>\n");
    text
}

/// As text or as the value of an attribute.
pub(crate) fn escape(plain: &str) -> String {
    let mut text = String::with_capacity(plain.len());
    for character in plain.chars() {
        match character {
            '&' => text.push_str("&amp;"),
            '<' => text.push_str("&lt;"),
            '>' => text.push_str("&gt;"),
            '"' => text.push_str("&quot;"),
            '\'' => text.push_str("&#39;"),
            other => text.push(other),
        }
    }
    text
}
