"""How granularities are made, compared, written as text and read back."""

import pytest

from mopruning import NM, BankBalanced, Block, Channel, Filter, KernelPattern, Stripe, Unstructured
from mopruning.errors import RecipeError
from mopruning.granularity import Balanced, parse_granularity
from mopruning.granularity.text import FORMS

ALL = [
    Unstructured(),
    BankBalanced(),
    BankBalanced(bank=1),
    BankBalanced(bank=16, tail="balance"),
    NM(0, 4),
    NM(2, 4),
    NM(7, 16),
    Filter(),
    Filter(group=True),
    Channel(),
    Stripe(),
    KernelPattern(),
    KernelPattern(5),
    KernelPattern(patterns=("110000000", "000000011")),
    KernelPattern(patterns=("1" * 9,)),
    Block(),
    Block((3,)),
    Block((2, 2, 3, 1)),
    Balanced((-1,)),
    Balanced((1, -1, 64)),
]

MALFORMED = [
    (lambda: BankBalanced(0), "bank must be a whole number of 1 or more, got 0"),
    (lambda: BankBalanced(-64), "got -64"),
    (lambda: BankBalanced(6.4), "got 6.4"),
    (lambda: BankBalanced(64, "pad"), "tail must be 'dense' or 'balance', got 'pad'"),
    (lambda: NM(5, 4), "expected whole numbers 0 <= n <= m, m >= 1, got n=5, m=4"),
    (lambda: NM(-1, 4), "got n=-1, m=4"),
    (lambda: NM(0, 0), "got n=0, m=0"),
    (lambda: NM(0.5, 1), "got n=0.5, m=1"),
    (lambda: Block(()), r"got \(\)"),
    (lambda: Block((4, 0)), r"got \(4, 0\)"),
    (lambda: Block((4, 2.5)), r"got \(4, 2.5\)"),
    (lambda: Balanced(()), r"got \(\)"),
    (lambda: Balanced((1, 0)), r"got \(1, 0\)"),
    (lambda: Balanced((1, -2)), r"got \(1, -2\)"),
    (lambda: KernelPattern(7), r"entries must be one of \[4, 5\], got 7"),
    (lambda: KernelPattern(patterns=("111",)), "expected strings of nine 0 and 1"),
    (lambda: KernelPattern(patterns=("11100000x",)), "expected strings of nine 0 and 1"),
    (lambda: KernelPattern(patterns=("000000000",)), "expected strings of nine 0 and 1"),
    (lambda: KernelPattern(patterns=("111000000", "110000000")), "equally many 1"),
    (lambda: KernelPattern(patterns=("111000000", 7)), "expected strings of nine 0 and 1"),
]


@pytest.mark.parametrize(("make", "message"), MALFORMED)
def test_a_malformed_granularity_is_refused(make, message):
    with pytest.raises(RecipeError, match=message):
        make()


@pytest.mark.parametrize("granularity", ALL, ids=str)
def test_text_reads_back_equal(granularity):
    text = str(granularity)
    back = parse_granularity(text)
    assert (back, hash(back), str(back)) == (granularity, hash(granularity), text)
    assert parse_granularity(f" {text.upper()}\n") == granularity
    assert parse_granularity(granularity) is granularity


def test_the_fixed_texts():
    fixed = {
        "unstructured": Unstructured(),
        "bank:64": BankBalanced(bank=64),
        "2:4": NM(2, 4),
        "filter": Filter(),
        "filter:group": Filter(group=True),
        "channel": Channel(),
        "stripe": Stripe(),
        "pattern": KernelPattern(),
        "block:4x4": Block((4, 4)),
    }
    assert {text: parse_granularity(text) for text in fixed} == fixed
    assert [str(granularity) for granularity in fixed.values()] == list(fixed)
    assert parse_granularity("bank") == BankBalanced(bank=64)
    assert parse_granularity("block") == Block((4, 4))


@pytest.mark.parametrize(
    "text",
    ["", "banks", "bank:", "bank:x", "bank:-1", "bank:0", "bank:64:dense", "4:2", "2:", "2:4:6", "0:0", "2/4", "n:m"],
)
def test_bad_text_for_groups_is_refused(text):
    with pytest.raises(RecipeError):
        parse_granularity(text)


@pytest.mark.parametrize(
    "text",
    [
        "block:",
        "block:4x",
        "block:0x4",
        "block:-1x4",
        "balanced:",
        "balanced:0",
        "balanced:-2",
        "pattern:3",
        "pattern:,",
    ],
)
def test_bad_text_for_shapes_is_refused(text):
    with pytest.raises(RecipeError):
        parse_granularity(text)


@pytest.mark.parametrize("text", ["filters", "pattern:01,10", None, 64, 0.5, ("bank", 64)])
def test_other_bad_text_is_refused(text):
    with pytest.raises(RecipeError):
        parse_granularity(text)


def test_unknown_text_lists_the_known_forms():
    with pytest.raises(
        RecipeError, match=r"unknown granularity 'banks'; known forms: unstructured, bank:64, .*, 2:4, filter"
    ):
        parse_granularity("banks")
    for form in FORMS.split(", "):
        assert str(parse_granularity(form)) == form


def test_granularities_are_values():
    assert BankBalanced(64) == BankBalanced() != BankBalanced(64, "balance")
    assert len({NM(2, 4), NM(2, 4), NM(1, 2)}) == 2
    assert Block([4, 4]) == Block((4, 4))
    assert KernelPattern(patterns=KernelPattern(5).patterns) == KernelPattern(5)
    with pytest.raises(AttributeError):
        NM(2, 4).n = 1
