use std::fmt::Write;

use super::sink::Sink;

/// Writes JSON, without blanks.
#[derive(Debug, Default)]
pub(super) struct Json {
    text: String,
}

impl Json {
    pub(super) fn into_text(self) -> String {
        self.text
    }

    /// A comma, unless something was just opened.
    fn separate(&mut self) {
        if !self.text.is_empty() && !self.text.ends_with(['{', '[']) {
            self.text.push(',');
        }
    }

    fn put(&mut self, value: impl std::fmt::Display) {
        // Writing to a string does not fail.
        let _ = write!(self.text, "{value}");
    }
}

impl Sink for Json {
    fn open_dict(&mut self) {
        self.text.push('{');
    }

    fn close_dict(&mut self) {
        self.text.push('}');
    }

    fn open_list(&mut self) {
        self.text.push('[');
    }

    fn close_list(&mut self) {
        self.text.push(']');
    }

    fn key(&mut self, name: &str) {
        self.separate();
        self.text(name);
        self.text.push(':');
    }

    fn item(&mut self) {
        self.separate();
    }

    fn int(&mut self, value: i64) {
        self.put(value);
    }

    fn float(&mut self, value: f64) {
        self.put(value);
    }

    fn bool(&mut self, value: bool) {
        self.put(value);
    }

    fn text(&mut self, value: &str) {
        self.text.push('"');
        for letter in value.chars() {
            match letter {
                '"' | '\\' => self.text.extend(['\\', letter]),
                control if control < ' ' => self.put(format_args!("\\u{:04x}", u32::from(control))),
                letter => self.text.push(letter),
            }
        }
        self.text.push('"');
    }

    fn pair(&mut self, [first, second]: [i64; 2]) {
        self.put(format_args!("[{first},{second}]"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_nest() {
        let mut json = Json::default();
        json.open_dict();
        json.key("a");
        json.open_list();
        json.item();
        json.int(-1);
        json.item();
        json.open_dict();
        json.close_dict();
        json.item();
        json.pair([1, 2]);
        json.close_list();
        json.key("\"\\\n");
        json.text("ü\u{1}");
        json.key("c");
        json.bool(true);
        json.close_dict();
        assert_eq!(json.into_text(), r#"{"a":[-1,{},[1,2]],"\"\\\u000a":"ü\u0001","c":true}"#);
    }
}
