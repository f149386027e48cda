"""How good generated text is: BLEU and chrF from sacreBLEU, error rates of tokens and lines, and two systems compared.

Compares lists of lines; knows nothing of models, imports no torch. Every value is in percent.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rapidfuzz.distance import Levenshtein
from sacrebleu.metrics.base import Metric
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.significance import PairedTest, Result

from pellucid.errors import ConfigError, DataError

__all__ = [
    "BLEU_TOKENIZERS",
    "METRICS",
    "Comparison",
    "Scores",
    "bleu_tokenizer",
    "compare",
    "evaluate",
    "higher_is_better",
    "metric_value",
]

METRICS = ("bleu", "chrf", "wer", "ser")
BLEU_TOKENIZERS = ("auto", "13a", "zh", "char", "intl", "none", "ja-mecab", "ko-mecab")

_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_KANA = re.compile("[\u3041-\u3096\u30a1-\u30fa]")


@dataclass(frozen=True, slots=True)
class Scores:
    """Metrics of a corpus, in percent; ``None`` where one was not asked for.

    Attributes:
        lines: lines compared.
        bleu: corpus BLEU (Papineni et al. 2002) as sacreBLEU computes it, cased; higher is better.
        bleu_signature: everything that decides about its value; to be quoted with it.
        chrf: chrF2 (Popović 2016); higher is better.
        chrf_signature: likewise.
        wer: word error rate: edits (insertions, deletions, substitutions) that turn the hypotheses into the references,
            over all reference tokens; tokens are what white space separates. May exceed 100; lower is better.
        ser: sentence error rate: lines with any wrong token. This is what grapheme-to-phoneme work calls WER.
    """

    lines: int
    bleu: float | None = None
    bleu_signature: str | None = None
    chrf: float | None = None
    chrf_signature: str | None = None
    wer: float | None = None
    ser: float | None = None

    @property
    def per(self) -> float | None:
        """Phone error rate: another name for ``wer`` where the tokens are phones."""
        return self.wer


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two systems under one metric, by paired bootstrap resampling (Koehn 2004).

    Attributes:
        baseline: its value.
        system: the other system's.
        baseline_interval: half the width of its 95 % confidence interval.
        system_interval: likewise.
        p_value: how probable a difference this large would be if the systems were equally good; 1 for equal outputs.
        signature: of the metric, the seed and the number of samples.
    """

    baseline: float
    system: float
    baseline_interval: float
    system_interval: float
    p_value: float
    signature: str


def evaluate(
    hypotheses: Sequence[str],
    references: Sequence[str],
    metrics: Sequence[str] = ("bleu", "chrf"),
    *,
    bleu_tokenize: str = "auto",
) -> Scores:
    """Compare each hypothesis with the reference of the same line.

    Args:
        hypotheses: detokenised text, one line each; may be empty strings.
        references: one for each.
        metrics: which to compute, of :data:`METRICS`.
        bleu_tokenize: how BLEU splits lines, see :func:`bleu_tokenizer`.

    Raises:
        ConfigError: an unknown metric or tokeniser, or one that is not installed.
        DataError: no lines, not as many hypotheses as references, or no reference token for ``wer``.
    """
    _check(hypotheses, references)
    values: dict[str, float | str] = {}
    for name in metrics:
        if name in ("bleu", "chrf"):
            metric = _sacrebleu(name, references, bleu_tokenize)
            values[name] = float(metric.corpus_score(hypotheses, [references]).score)
            values[f"{name}_signature"] = str(metric.get_signature())
        else:
            values[name] = metric_value(name, hypotheses, references)
    return Scores(lines=len(references), **values)  # type: ignore[arg-type]


def metric_value(
    name: str, hypotheses: Sequence[str], references: Sequence[str], *, bleu_tokenize: str = "auto"
) -> float:
    """One metric of text by its name, in percent; :func:`higher_is_better` says which way.

    Raises:
        ConfigError, DataError: as :func:`evaluate`.
    """
    _check(hypotheses, references)
    if name in ("bleu", "chrf"):
        return float(_sacrebleu(name, references, bleu_tokenize).corpus_score(hypotheses, [references]).score)
    if name not in ("wer", "ser"):
        raise ConfigError(f"unknown metric of text {name!r}: choose {', '.join(METRICS)}")
    pairs = [(h.split(), r.split()) for h, r in zip(hypotheses, references, strict=True)]
    if name == "ser":
        return 100 * sum(hypothesis != reference for hypothesis, reference in pairs) / len(pairs)
    tokens = sum(len(reference) for _, reference in pairs)
    if not tokens:
        raise DataError("all references are blank: an error rate of tokens needs at least one reference token")
    return 100 * sum(Levenshtein.distance(hypothesis, reference) for hypothesis, reference in pairs) / tokens


def higher_is_better(name: str) -> bool:
    """Whether a larger value of this metric (``loss`` included) is the better one.

    Raises:
        ConfigError: an unknown metric.
    """
    if name in ("bleu", "chrf"):
        return True
    if name in ("loss", "wer", "ser"):
        return False
    raise ConfigError(f"unknown metric {name!r}: choose loss, {', '.join(METRICS)}")


def compare(
    baseline: Sequence[str],
    system: Sequence[str],
    references: Sequence[str],
    metrics: Sequence[str] = ("bleu", "chrf"),
    *,
    bleu_tokenize: str = "auto",
    samples: int = 1000,
) -> dict[str, Comparison]:
    """Whether two systems' outputs for the same lines differ by more than chance (sacreBLEU's paired bootstrap).

    The seed is sacreBLEU's, 12345, or what the environment variable SACREBLEU_SEED says: the same data give the same
    answer. Memory grows as samples · lines (about 40 bytes each for BLEU).

    Returns:
        For every metric its comparison.

    Raises:
        ConfigError, DataError: as :func:`evaluate`.
    """
    for hypotheses in (baseline, system):
        _check(hypotheses, references)
    if samples < 1:
        raise ConfigError(f"samples = {samples}: at least 1 bootstrap sample is needed")
    results: dict[str, Comparison] = {}
    for name in metrics:
        test = PairedTest(
            [("baseline", baseline), ("system", system)],
            {name: _sacrebleu(name, references, bleu_tokenize)},
            [references],
            test_type="bs",
            n_samples=samples,
        )
        signatures, scores = test()
        ((key, signature),) = signatures.items()
        first, second = (result for result in scores[key] if isinstance(result, Result))
        assert first.ci is not None and second.ci is not None and second.p_value is not None
        results[name] = Comparison(
            baseline=float(first.score),
            system=float(second.score),
            baseline_interval=float(first.ci),
            system_interval=float(second.ci),
            # sacreBLEU counts resamples with a larger difference, none here, and would call no difference significant.
            p_value=1.0 if list(baseline) == list(system) else float(second.p_value),
            signature=str(signature),
        )
    return results


def bleu_tokenizer(references: Sequence[str], choice: str = "auto") -> str:
    """The sacreBLEU tokeniser for these references.

    ``auto`` takes ``char`` where a tenth or more of the letters are kana (``ja-mecab`` needs a dictionary, and a metric
    must not depend on what happens to be installed), ``zh`` (single Chinese characters, the rest as 13a) where most of
    them are Chinese characters, and ``13a``, the standard, for everything else. The signature names it.

    Raises:
        ConfigError: an unknown choice.
    """
    if choice not in BLEU_TOKENIZERS:
        raise ConfigError(f"bleu_tokenize = {choice!r}: choose one of {', '.join(BLEU_TOKENIZERS)}")
    if choice != "auto":
        return choice
    text = "".join(references)
    letters = sum(map(str.isalpha, text))
    if letters and len(_KANA.findall(text)) * 10 >= letters:
        return "char"
    return "zh" if len(_HAN.findall(text)) * 2 > letters else "13a"


def _sacrebleu(name: str, references: Sequence[str], tokenize: str) -> Metric:
    if name == "chrf":
        return CHRF()
    if name != "bleu":
        raise ConfigError(f"no bootstrap for metric {name!r}: choose bleu or chrf")
    chosen = bleu_tokenizer(references, tokenize)
    try:
        # force: no advice on standard error about text that looks tokenised; symbols are meant to look so.
        return BLEU(tokenize=chosen, force=True)
    except RuntimeError:
        language = chosen.partition("-")[0]
        raise ConfigError(f"bleu_tokenize: {chosen} needs MeCab: pip install 'sacrebleu[{language}]'") from None


def _check(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    for lines in (hypotheses, references):
        if isinstance(lines, str):
            raise DataError("expected a list of lines, not one text: write [text]")
    if len(hypotheses) != len(references):
        raise DataError(
            f"{len(hypotheses)} hypotheses and {len(references)} references: every hypothesis needs its reference"
        )
    if not references:
        raise DataError("nothing to evaluate: there are no lines")
