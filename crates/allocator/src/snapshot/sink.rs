/// Where a document goes. Whoever writes says where lists and dictionaries begin and end, and names each value of a dictionary.
pub(super) trait Sink {
    /// Begins a dictionary; then come [`key`](Sink::key) and a value, in turns.
    fn open_dict(&mut self);
    /// Ends it.
    fn close_dict(&mut self);
    /// Begins a list; before each of its items comes [`item`](Sink::item).
    fn open_list(&mut self);
    /// Ends it.
    fn close_list(&mut self);
    /// Names the next value.
    fn key(&mut self, name: &str);
    /// Says that an item of a list follows.
    fn item(&mut self);
    /// A whole number.
    fn int(&mut self, value: i64);
    /// Another number.
    fn float(&mut self, value: f64);
    /// Yes or no.
    fn bool(&mut self, value: bool);
    /// A text.
    fn text(&mut self, value: &str);
    /// Two whole numbers that belong together.
    fn pair(&mut self, pair: [i64; 2]);
    /// A value that may come again under the same number: then it need not be written again.
    fn shared(&mut self, number: u16, write: impl FnOnce(&mut Self))
    where
        Self: Sized,
    {
        let _ = number;
        write(self);
    }

    /// A count or an address: none is beyond `i64`, but the bytes of a refused request may be.
    fn count(&mut self, value: u64) {
        self.int(i64::try_from(value).unwrap_or(i64::MAX));
    }
}
