r"""CLIP's tokenizer from its two old files, as the JSON of the `tokenizers` package.

text      composed (NFC), blanks as one space, lower case
words     contractions, runs of letters, single digits, runs of other signs; their bytes as printable characters
tokens    byte-pair merges in the order of the file; </w> ends a word
around    <|startoftext|> text <|endoftext|>
"""

from typing import Any

START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def clip_bpe_json(vocabulary: dict[str, int], merges: list[str], pad: str = END) -> str:
    """The JSON of the tokenizer of a vocab.json, and the lines of a merges.txt.

    `pad` fills texts up and is never part of a word: OpenCLIP's is "!", which then is that token wherever it stands.

    Raises ValueError for a vocabulary without the tokens around a text, or merges that do not fit it.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    missing = [token for token in (START, END) if token not in vocabulary]
    if missing:
        raise ValueError(f"CLIP's vocabulary holds {START} and {END}; {', '.join(missing)} is missing.")
    pairs = [tuple(line.split(" ")) for line in merges if line.strip() and not line.startswith("#version")]
    strange = [pair for pair in pairs if len(pair) != 2]
    if strange:
        raise ValueError(f"Merges are two tokens a line, found {' '.join(strange[0])[:40]!r}.")
    model: Any = models.BPE
    try:
        made = model(
            vocab=vocabulary, merges=pairs, continuing_subword_prefix="", end_of_word_suffix="</w>", unk_token=END
        )
    except Exception as error:  # the package raises plain Exception
        raise ValueError(f"The merges do not fit the vocabulary: {error}.") from None
    tokenizer: Any = Tokenizer(made)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    split: Any = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.Sequence([decoders.BPEDecoder(suffix="</w>"), decoders.ByteLevel()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(token, vocabulary[token]) for token in (START, END)]
    )
    tokenizer.add_special_tokens([token for token in dict.fromkeys((START, END, pad)) if token in vocabulary])
    return tokenizer.to_str()
