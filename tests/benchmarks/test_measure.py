import torch

from retinanet.benchmarks.measure import (
    Measurement,
    Variant,
    compare,
    count_host_reads,
    peak_memory,
    ratio,
)

CPU = torch.device("cpu")


def test_variants_take_turns_in_a_rotating_order():
    calls = []
    variants = [
        Variant(name, lambda name=name: calls.append(name), clean_up=lambda name=name: calls.append(f"{name}'"))
        for name in "abc"
    ]
    measured = compare(variants, rounds=4, device=CPU, what="test")
    timed = calls[2 * 3 * 3 :]  # first, calls for warm-up, synchronisations and memory; a clean-up follows each call
    assert calls[:6] == ["a", "a'"] * 3
    assert timed[::2] == [*"abc", *"bca", *"cab", *"abc"]
    assert timed[1::2] == [f"{name}'" for name in timed[::2]]
    assert {name: len(entry.seconds) for name, entry in measured.items()} == {"a": 4, "b": 4, "c": 4}


def test_only_the_first_result_is_checked():
    seen, numbers = [], iter(range(100))
    compare([Variant("a", lambda: next(numbers), check=seen.append)], rounds=2, device=CPU, what="test")
    assert seen == [0]


def test_memory_and_host_reads_are_not_measured_off_the_device():
    measured = compare([Variant("a", lambda: torch.ones(9), on_device=False)], rounds=1, device=CPU, what="test")
    assert measured["a"].peak_bytes is None and measured["a"].host_reads is None


def test_ratio_of_medians_and_of_rounds():
    # Medians 3 and 2; ratios within rounds 2/1, 3/2, 30/10.
    ours, theirs = Measurement([1.0, 2.0, 10.0], 0, 0), Measurement([2.0, 3.0, 30.0], 0, 0)
    assert ratio(theirs, ours) == (1.5, 2.0)


def test_peak_memory_counts_tensors_held_at_the_same_time():
    kept = torch.ones(1000)

    def call() -> torch.Tensor:
        first = torch.empty(3_000_000)
        second = torch.empty(1_000_000)
        del first
        return second + kept[0]  # 1 + 1 million elements, after a peak of 3 + 1 million

    assert abs(peak_memory(call, CPU) - 16_000_000) < 0.1 * 16_000_000


def test_peak_memory_of_a_backward_pass():
    weight = torch.randn(1000, 1000, requires_grad=True)
    # Kept for the backward pass: the input of the sine. Computed there: the expanded gradient of the sum, the cosine,
    # and their product. At most three matrices exist at the same time.
    peak = peak_memory(lambda: (weight * 2).sin().sum().backward(), CPU)
    assert 2 * 4_000_000 <= peak <= 4 * 4_000_000


def test_host_reads_in_composite_operations_are_counted_in_inference_mode(host_reads):
    values = torch.tensor([1.0, 0.0, 2.0])

    def call() -> None:
        torch.where(values > 0)  # calls nonzero
        values[values > 0]

    without_inference_mode = count_host_reads(call)
    with torch.inference_mode():
        assert count_host_reads(call) == without_inference_mode == 2
    with host_reads() as reads:
        call()
    assert reads == ["aten::nonzero", "aten::index"]
