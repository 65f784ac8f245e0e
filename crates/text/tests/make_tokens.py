"""Write all/tokens.json, the ids that transformers gives for a table of prompts.

    python crates/text/tests/make_tokens.py        (from the repository's root; needs transformers)

The tokenizers are those of the bundled demo model, which are the ones of FLUX.1-dev; lengths and options are those of diffusers'
FluxPipeline: CLIP 77, T5 512, padded and truncated. T5 is also run at 16, to see what truncation keeps.
"""
import json
from pathlib import Path

from transformers import CLIPTokenizer, T5Tokenizer

PROMPTS = [
    "",
    " ",
    "A man, portrait, cinematic",
    "a photo of a cat's paw; they're HERE, we've 12345 cats!!!",
    "Ünïcode — 红心 ❤️",
    "Cafe\u0301 vs. Caf\u00e9, \ufb01ne \u2460 \u00bd \u212b",
    "  leading,   inner \t tabs\nand\r\nlines  ",
    "control \x00\x01\x07\x1b[0m characters \x7f\x85\u200b\u200d\ufeff end",
    "नमस्ते दुनिया, สวัสดี, こんにちは世界, Привет, שלום, 안녕하세요",
    "👩‍🚀👨‍👩‍👧‍👦 🏳️‍🌈 emoji",
    "<|startoftext|>quoted<|endoftext|> ends </s> <pad> <unk> <extra_id_0> here",
    "<|STARTOFTEXT|> <|EndOfText|> upper",
    "https://example.com/a_b?c=d&e=f#g 1,234.5 $9.99 (50%) [x] {y} \\z/ ~^`|@",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "a" * 700,
    "ab" * 900 + " tail",
    "one two three four five six seven eight nine ten " * 60,
    "\u0130stanbul \u1e9e STRASSE \u03a3\u03a3 \ufffd \U00010348 \U0001d54f",
    "'s't're've'm'll'd 'S 'RE",
    "\u2581under\u2581scores\u2581 _ __ \u2028 sep \u3000 wide",
]


def trimmed(ids, pad):
    """Without the padding, but for its first."""
    while len(ids) > 1 and ids[-1] == pad and ids[-2] == pad:
        ids = ids[:-1]
    return ids


def main():
    base = Path("assets/demo/base")
    clip = CLIPTokenizer.from_pretrained(base / "tokenizer")
    t5 = T5Tokenizer.from_pretrained(base / "tokenizer_2")

    def ids(tokenizer, text, length):
        found = tokenizer(text, padding="max_length", max_length=length, truncation=True).input_ids
        assert len(found) == length, (text, len(found))
        return trimmed(found, tokenizer.pad_token_id)

    rows = [dict(text=t, clip=ids(clip, t, 77), t5=ids(t5, t, 512), t5_of_16=ids(t5, t, 16)) for t in PROMPTS]
    lines = ",\n".join(json.dumps(row) for row in rows)
    Path(__file__).with_name("all").joinpath("tokens.json").write_text(f"[\n{lines}\n]\n")


main()
