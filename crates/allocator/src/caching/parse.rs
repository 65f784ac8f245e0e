//! Settings as text, in the form of PyTorch's `PYTORCH_CUDA_ALLOC_CONF`.

use std::fmt;

use super::settings::{Magazines, Settings};
use crate::{Error, Result};

/// One setting of a text.
struct Item<'a> {
    key: &'a str,
    value: &'a str,
    /// Where the key and the value start, in bytes.
    key_at: usize,
    value_at: usize,
}

/// What a key is.
enum Key {
    /// Sets something.
    Sets(fn(&mut Settings, &Item<'_>) -> Result<()>),
    /// Only this value says how things are; any other one asks for what is not there.
    Only(&'static str, &'static str),
    /// Asks for what is not there.
    Absent(&'static str),
}

const MIB: u64 = 1 << 20;
/// The page that sizes of chunks are counted in: that of CUDA.
const PAGE_MIB: u64 = 2;

const NO_SPLIT: &str =
    "any free block is split, to the byte of the alignment: there is nothing to keep whole";
const NO_PINNED: &str = "page-locked host memory is the device's: see `Device::pin`";

/// PyTorch's keys, then our own. The list is also the order in which they are written.
const KEYS: &[(&str, Key)] = &[
    ("expandable_segments", Key::Only("True", "segments always expand")),
    ("backend", Key::Only("native", "there is no other backend")),
    ("release_lock_on_cudamalloc", Key::Only("True", "the driver is never called under the lock")),
    (
        "large_segment_size_mb",
        Key::Sets(|settings, item| {
            let mebibytes = item.number(PAGE_MIB, 1 << 10)?;
            if !mebibytes.is_multiple_of(PAGE_MIB) {
                return Err(item.refuse("not a multiple of 2: a page is 2 MiB"));
            }
            settings.big_chunk_pages = mebibytes / PAGE_MIB;
            Ok(())
        }),
    ),
    (
        "expandable_segments_reserve",
        Key::Sets(|settings, item| {
            settings.address_bytes = Some(item.gibibytes()?);
            Ok(())
        }),
    ),
    ("max_split_size_mb", Key::Absent(NO_SPLIT)),
    ("max_non_split_rounding_mb", Key::Absent(NO_SPLIT)),
    ("roundup_power2_divisions", Key::Absent("sizes are rounded to 512 bytes and no further")),
    (
        "garbage_collection_threshold",
        Key::Absent(
            "what holds nothing is taken when it is needed: `watermark_mb` asks the handlers earlier",
        ),
    ),
    (
        "per_process_memory_fraction",
        Key::Absent("the limit is the ledger's: see `Ledger::new` and `Allocator::set_budget`"),
    ),
    ("throw_on_cudamalloc_oom", Key::Absent("a refusal of the device is one rung of the ladder")),
    (
        "graph_capture_record_stream_reuse",
        Key::Absent("a captured step has an arena of its own: see `Steps::capture`"),
    ),
    ("expandable_segments_handle_type", Key::Absent("chunks are not shared with other processes")),
    (
        "expandable_segments_reserve_by_class",
        Key::Absent("all streams share two ranges of addresses: `expandable_segments_reserve` is for each"),
    ),
    ("pinned_use_cuda_host_register", Key::Absent(NO_PINNED)),
    ("pinned_num_register_threads", Key::Absent(NO_PINNED)),
    ("pinned_use_background_threads", Key::Absent(NO_PINNED)),
    ("pinned_reserve_segment_size_mb", Key::Absent(NO_PINNED)),
    ("pinned_free_catch_all", Key::Absent(NO_PINNED)),
    ("pinned_max_round_threshold_mb", Key::Absent(NO_PINNED)),
    ("pinned_max_cached_size_mb", Key::Absent(NO_PINNED)),
    (
        "headroom_permille",
        Key::Sets(|settings, item| item.number(0, 1000).map(|value| settings.headroom_permille = value)),
    ),
    (
        "slack_permille",
        Key::Sets(|settings, item| {
            settings.slack_permille =
                if item.value == "None" { None } else { Some(item.number(0, 1_000_000)?) };
            Ok(())
        }),
    ),
    ("stream_waits", Key::Sets(|settings, item| item.boolean().map(|value| settings.stream_waits = value))),
    (
        "event_every",
        Key::Sets(|settings, item| {
            settings.event_every = u32::try_from(item.number(1, u64::from(u32::MAX))?).unwrap_or(u32::MAX);
            Ok(())
        }),
    ),
    (
        "watermark_mb",
        Key::Sets(|settings, item| {
            item.number(0, 1 << 30).map(|value| settings.watermark_bytes = value * MIB)
        }),
    ),
    (
        "trace_events",
        Key::Sets(|settings, item| {
            item.number(0, 1 << 28).map(|value| settings.trace_events = value as usize)
        }),
    ),
    (
        "magazines",
        Key::Sets(|settings, item| {
            let known = MAGAZINES.iter().find(|(name, _)| *name == item.value);
            let (_, when) = known.ok_or_else(|| item.refuse("not `never`, `contended` or `always`"))?;
            settings.magazines = *when;
            Ok(())
        }),
    ),
    ("times", Key::Sets(|settings, item| item.boolean().map(|value| settings.times = value))),
];

const MAGAZINES: [(&str, Magazines); 3] =
    [("never", Magazines::Never), ("contended", Magazines::Contended), ("always", Magazines::Always)];

impl Settings {
    /// Reads settings from text in the form of PyTorch's `PYTORCH_CUDA_ALLOC_CONF`: `key:value,key:value`, blanks ignored; what is not named is as by default.
    ///
    /// | key | value | sets |
    /// |---|---|---|
    /// | `expandable_segments` | `True` | nothing: they always are |
    /// | `backend` | `native` | nothing |
    /// | `release_lock_on_cudamalloc` | `True` | nothing: it always is |
    /// | `large_segment_size_mb` | a multiple of 2 | [`big_chunk_pages`](Settings::big_chunk_pages), in CUDA's pages of 2 MiB |
    /// | `expandable_segments_reserve` | GiB, as `40G` | [`address_bytes`](Settings::address_bytes) |
    /// | `headroom_permille`, `slack_permille` | thousandths; for the second also `None` | the fields of these names |
    /// | `stream_waits`, `times` | `True`, `False` | the fields of these names |
    /// | `event_every`, `trace_events` | a number | the fields of these names |
    /// | `watermark_mb` | MiB | [`watermark_bytes`](Settings::watermark_bytes) |
    /// | `magazines` | `never`, `contended`, `always` | [`magazines`](Settings::magazines) |
    ///
    /// Of PyTorch's keys all others are errors that say why there is no such thing here, so that no setting is silently without effect.
    ///
    /// ```
    /// use lighterage_allocator::Settings;
    ///
    /// # fn main() -> Result<(), lighterage_allocator::Error> {
    /// let settings = Settings::parse("expandable_segments:True, large_segment_size_mb:32, trace_events:4096")?;
    /// assert_eq!((settings.big_chunk_pages, settings.trace_events), (16, 4096));
    ///
    /// let error = Settings::parse("expandable_segments:True,max_split_size_mb:128").unwrap_err();
    /// assert!(error.to_string().starts_with("settings, byte 25: max_split_size_mb"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Settings`] with the byte at which it went wrong: a key that is not known, given twice or without a meaning here, a value out of its range,
    /// or text that is no list of settings.
    pub fn parse(text: &str) -> Result<Self> {
        let mut settings = Self::default();
        let items = items(text)?;
        for (position, item) in items.iter().enumerate() {
            if items[..position].iter().any(|earlier| earlier.key == item.key) {
                return Err(item.refuse_key("given twice"));
            }
            match KEYS.iter().find(|(name, _)| *name == item.key) {
                None => return Err(item.refuse_key(&format!("not a setting; those there are: {}", known()))),
                Some((_, Key::Absent(reason))) => return Err(item.refuse_key(reason)),
                Some((_, Key::Only(value, _))) if *value == item.value => (),
                Some((_, Key::Only(value, reason))) => {
                    return Err(item.refuse(&format!("not {value}: {reason}")));
                }
                Some((_, Key::Sets(set))) => set(&mut settings, item)?,
            }
        }
        Ok(settings)
    }
}

/// As [`Settings::parse`] reads it; what no text can say is left out: the purpose, and what is not whole MiB or GiB is rounded down.
impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { big_chunk_pages, headroom_permille, event_every, trace_events, .. } = self;
        let waits = if self.stream_waits { "True" } else { "False" };
        write!(f, "expandable_segments:True,large_segment_size_mb:{}", big_chunk_pages * PAGE_MIB)?;
        if let Some(bytes) = self.address_bytes {
            write!(f, ",expandable_segments_reserve:{}G", bytes >> 30)?;
        }
        write!(f, ",headroom_permille:{headroom_permille}")?;
        match self.slack_permille {
            Some(slack) => write!(f, ",slack_permille:{slack}")?,
            None => f.write_str(",slack_permille:None")?,
        }
        write!(f, ",stream_waits:{waits},event_every:{event_every}")?;
        write!(f, ",watermark_mb:{},trace_events:{trace_events}", self.watermark_bytes / MIB)?;
        let named = MAGAZINES.iter().find(|(_, when)| *when == self.magazines);
        named.map_or(Ok(()), |(name, _)| write!(f, ",magazines:{name}"))?;
        write!(f, ",times:{}", if self.times { "True" } else { "False" })
    }
}

/// Cuts a text into settings: at commas that are not within brackets, and at the first colon of each.
fn items(text: &str) -> Result<Vec<Item<'_>>> {
    let mut items = Vec::new();
    if text.trim().is_empty() {
        return Ok(items);
    }
    let mut start = 0;
    loop {
        let end = end_of_item(text, start)?;
        items.push(item(&text[start..end], start)?);
        if end == text.len() {
            return Ok(items);
        }
        start = end + 1;
    }
}

fn end_of_item(text: &str, start: usize) -> Result<usize> {
    let mut opened = None;
    for (at, letter) in text[start..].char_indices().map(|(at, letter)| (start + at, letter)) {
        match (letter, opened) {
            (',', None) => return Ok(at),
            ('[', None) => opened = Some(at),
            ('[', Some(_)) => return Err(wrong(at, "a bracket within brackets".to_owned())),
            (']', Some(_)) => opened = None,
            (']', None) => return Err(wrong(at, "a bracket closes that was not opened".to_owned())),
            _ => (),
        }
    }
    opened.map_or(Ok(text.len()), |at| Err(wrong(at, "this bracket is not closed".to_owned())))
}

fn item(text: &str, start: usize) -> Result<Item<'_>> {
    let blanks = text.len() - text.trim_start().len();
    let Some((key, value)) = text.split_once(':') else {
        return Err(wrong(start + blanks, format!("{:?} is no key:value", text.trim())));
    };
    let value_blanks = value.len() - value.trim_start().len();
    let value_at = start + key.len() + 1 + value_blanks;
    let item = Item { key: key.trim(), value: value.trim(), key_at: start + blanks, value_at };
    match (item.key.is_empty(), item.value.is_empty()) {
        (true, _) => Err(wrong(item.key_at, "a value without a key".to_owned())),
        (_, true) => Err(item.refuse("no value")),
        _ => Ok(item),
    }
}

/// The keys that set something.
fn known() -> String {
    let sets = KEYS.iter().filter(|(_, key)| !matches!(key, Key::Absent(_)));
    sets.map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

impl Item<'_> {
    fn number(&self, low: u64, high: u64) -> Result<u64> {
        let number = self.value.parse::<u64>().ok().filter(|number| (low..=high).contains(number));
        number.ok_or_else(|| self.refuse(&format!("not a number from {low} to {high}")))
    }

    fn boolean(&self) -> Result<bool> {
        match self.value {
            "True" => Ok(true),
            "False" => Ok(false),
            _ => Err(self.refuse("neither True nor False")),
        }
    }

    /// `40G`, in bytes.
    fn gibibytes(&self) -> Result<u64> {
        let number = self.value.strip_suffix('G').and_then(|number| number.parse::<u64>().ok());
        let number = number.filter(|number| (1..=1 << 17).contains(number));
        let number = number
            .ok_or_else(|| self.refuse("not from 1G to 131072G; fractions of the memory are not read"))?;
        Ok(number << 30)
    }

    #[cold]
    fn refuse(&self, reason: &str) -> Error {
        wrong(self.value_at, format!("{}: {:?} is {reason}", self.key, self.value))
    }

    #[cold]
    fn refuse_key(&self, reason: &str) -> Error {
        wrong(self.key_at, format!("{}: {reason}", self.key))
    }
}

#[cold]
fn wrong(position: usize, reason: String) -> Error {
    Error::Settings { position, reason }
}

#[cfg(test)]
mod tests {
    use lighterage_testkit::Rng;

    use super::*;

    fn refused(text: &str) -> String {
        Settings::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn nothing_said_is_the_default() {
        for text in
            ["", "  ", "expandable_segments:True", " backend : native , release_lock_on_cudamalloc:True"]
        {
            assert_eq!(Settings::parse(text), Ok(Settings::default()), "{text:?}");
        }
    }

    #[test]
    fn every_key_sets_its_field() {
        let text = "large_segment_size_mb:64,expandable_segments_reserve:40G,headroom_permille:0,slack_permille:20,\
                    stream_waits:False,event_every:9,watermark_mb:256,trace_events:1000,magazines:never,times:True";
        let expected = Settings {
            big_chunk_pages: 32,
            address_bytes: Some(40 << 30),
            headroom_permille: 0,
            slack_permille: Some(20),
            stream_waits: false,
            event_every: 9,
            watermark_bytes: 256 << 20,
            trace_events: 1000,
            magazines: Magazines::Never,
            times: true,
            ..Settings::default()
        };
        assert_eq!(Settings::parse(text).unwrap(), expected);
        assert_eq!(Settings::parse(&expected.to_string()), Ok(expected));
        let off = Settings { slack_permille: None, ..Settings::default() };
        assert_eq!(Settings::parse("slack_permille:None"), Ok(off.clone()));
        assert_eq!(Settings::parse(&off.to_string()), Ok(off));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, said) in [
            ("expandable_segments", "settings, byte 0: \"expandable_segments\" is no key:value"),
            ("backend:native,,", "settings, byte 15: \"\" is no key:value"),
            ("backend:native,", "settings, byte 15: \"\" is no key:value"),
            (" :3", "settings, byte 1: a value without a key"),
            ("backend: ", "settings, byte 9: backend: \"\" is no value"),
            (
                "backend:native, bakcend:native",
                "settings, byte 16: bakcend: not a setting; those there are: expandable",
            ),
            ("event_every:0", "settings, byte 12: event_every: \"0\" is not a number from 1 to 4294967295"),
            ("event_every:-1", "is not a number"),
            ("trace_events:99999999999999999999", "is not a number"),
            ("stream_waits:true", "settings, byte 13: stream_waits: \"true\" is neither True nor False"),
            ("backend:native,backend:native", "settings, byte 15: backend: given twice"),
            ("magazines:on", "settings, byte 10: magazines: \"on\" is not `never`, `contended` or `always`"),
            ("expandable_segments:False", "\"False\" is not True: segments always expand"),
            ("backend:cudaMallocAsync", "\"cudaMallocAsync\" is not native: there is no other"),
            ("large_segment_size_mb:21", "is not a multiple of 2"),
            ("expandable_segments_reserve:0.5", "is not from 1G to"),
            (
                "roundup_power2_divisions:[256:1,512:2,>:8]",
                "byte 0: roundup_power2_divisions: sizes are rounded to 512",
            ),
            (
                "event_every:2,roundup_power2_divisions:[256:1",
                "settings, byte 39: this bracket is not closed",
            ),
            ("a:[[1]]", "settings, byte 3: a bracket within brackets"),
            ("a:1]", "settings, byte 3: a bracket closes that was not opened"),
            ("pinned_num_register_threads:8", "page-locked host memory is the device's"),
            ("ключ:1", "settings, byte 0: ключ: not a setting"),
        ] {
            let error = refused(text);
            assert!(error.contains(said), "{text:?}: {error}");
        }
    }

    /// The keys of torch 2.15's `AllocatorConfig.h` and `CUDAAllocatorConfig.h`: none of them is unknown here.
    #[test]
    fn every_key_of_pytorch_is_known() {
        for key in [
            "max_split_size_mb",
            "max_non_split_rounding_mb",
            "garbage_collection_threshold",
            "roundup_power2_divisions",
            "expandable_segments",
            "large_segment_size_mb",
            "pinned_use_background_threads",
            "pinned_max_round_threshold_mb",
            "pinned_max_cached_size_mb",
            "backend",
            "release_lock_on_cudamalloc",
            "pinned_use_cuda_host_register",
            "graph_capture_record_stream_reuse",
            "pinned_reserve_segment_size_mb",
            "pinned_num_register_threads",
            "per_process_memory_fraction",
            "pinned_free_catch_all",
            "throw_on_cudamalloc_oom",
            "expandable_segments_reserve",
            "expandable_segments_reserve_by_class",
        ] {
            let error = refused(&format!("{key}:?"));
            assert!(!error.contains("not a setting"), "{error}");
        }
    }

    /// Whatever the text, an answer; and what is written is read as the same.
    #[test]
    fn any_text_has_an_answer() {
        let mut rng = Rng::from_env(15);
        let parts = [
            "expandable_segments",
            ":",
            ",",
            "True",
            "[",
            "]",
            " ",
            "7",
            "G",
            "event_every",
            "watermark_mb",
            "é",
        ];
        let mut read = 0;
        for _ in 0..20_000 {
            let count = rng.below(7);
            let text: String = (0..count).map(|_| parts[rng.below(parts.len() as u64) as usize]).collect();
            match Settings::parse(&text) {
                Ok(settings) => {
                    read += 1;
                    assert_eq!(Settings::parse(&settings.to_string()), Ok(settings));
                }
                Err(Error::Settings { position, .. }) => assert!(position <= text.len(), "{text:?}"),
                Err(error) => panic!("{error}"),
            }
        }
        assert!(read > 100, "only {read} texts were settings");
    }
}
