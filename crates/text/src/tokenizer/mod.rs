pub struct ClipTokenizer; pub struct T5Tokenizer;
