"""How a Chinese→X model takes its development set in other forms: traditional script, no final punctuation, both.

    python benchmarks/chinese_input.py runs/tatoeba-zh-en corpora/tatoeba-zh-en/dev.tsv [--beam-size 5] [--lines 1000]

Each form is made from the same sentences by a general rule (OpenCC; the punctuation rule of training), so that the
scores of one table differ by the form alone. "as before" is the share of lines that come out as in the first form.
"""

from __future__ import annotations

import argparse
import itertools

import torch

import pellucid
from pellucid.config import CorpusConfig
from pellucid.data.chinese import converter
from pellucid.data.corpus import read_pairs
from pellucid.data.punctuation import without_final_punctuation
from pellucid.evaluation import metric_value


def main() -> None:
    """Translate every form and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("corpus", help="a TSV file: Chinese, then the reference")
    parser.add_argument("--beam-size", type=int, default=5)
    parser.add_argument("--lines", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--try", dest="texts", nargs="*", default=["我爱中国", "我爱中国。", "我愛中國"], metavar="TEXT"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    translator = pellucid.load(options.model, device="cpu")
    pairs = list(itertools.islice(read_pairs(CorpusConfig(path=options.corpus)), options.lines))
    sources, references = [pair.source for pair in pairs], [pair.target for pair in pairs]
    traditional = converter("traditional")
    forms = {
        "as in the file": sources,
        "traditional": [traditional(text) for text in sources],
        "no final punctuation": [without_final_punctuation(text) for text in sources],
        "both": [without_final_punctuation(traditional(text)) for text in sources],
    }

    def translate(texts: list[str]) -> list[str]:
        return [found.text for found in translator.generate(texts, beam_size=options.beam_size, n_best=1)]

    first: list[str] = []
    print("| form | changed lines | BLEU | chrF | as before |\n|---|---|---|---|---|")
    for name, texts in forms.items():
        outputs = translate(texts)
        first = first or outputs
        changed = sum(text != source for text, source in zip(texts, sources, strict=True))
        same = sum(a == b for a, b in zip(outputs, first, strict=True)) / len(outputs)
        scores = " | ".join(f"{metric_value(metric, outputs, references):.2f}" for metric in ("bleu", "chrf"))
        print(f"| {name} | {changed:,} | {scores} | {same:.1%} |", flush=True)
    for text, output in zip(options.texts, translate(options.texts), strict=True):
        print(f"{text} → {output}")


if __name__ == "__main__":
    main()
