import torch

from retinanet.benchmarks.measure import (
    Contestant,
    Measurement,
    compete,
    count_host_reads,
    peak_memory,
    ratio,
)

CPU = torch.device("cpu")


def test_contestants_take_turns_and_the_order_moves_on():
    calls = []
    contestants = [
        Contestant(name, lambda name=name: calls.append(name), clean_up=lambda name=name: calls.append(f"{name}'"))
        for name in "abc"
    ]
    measured = compete(contestants, rounds=4, device=CPU, what="test")
    timed = calls[2 * 3 * 3 :]  # after warm-up, host reads and memory of each, with what cleans up after them
    assert calls[:6] == ["a", "a'"] * 3
    assert timed[::2] == [*"abc", *"bca", *"cab", *"abc"]
    assert timed[1::2] == [f"{name}'" for name in timed[::2]]
    assert {name: len(entry.seconds) for name, entry in measured.items()} == {"a": 4, "b": 4, "c": 4}


def test_only_the_first_result_is_checked():
    seen, numbers = [], iter(range(100))
    compete([Contestant("a", lambda: next(numbers), check=seen.append)], rounds=2, device=CPU, what="test")
    assert seen == [0]


def test_what_is_not_torchs_has_neither_memory_nor_reads():
    measured = compete([Contestant("a", lambda: torch.ones(9), on_device=False)], rounds=1, device=CPU, what="test")
    assert measured["a"].peak_bytes is None and measured["a"].host_reads is None


def test_ratios():
    # Medians 3 and 2; within rounds 2/1, 3/2, 30/10: a slow round counts for both.
    ours, theirs = Measurement([1.0, 2.0, 10.0], 0, 0), Measurement([2.0, 3.0, 30.0], 0, 0)
    assert ratio(theirs, ours) == (1.5, 2.0)


def test_peak_memory_sees_what_is_held_at_one_time():
    kept = torch.ones(1000)

    def call() -> torch.Tensor:
        first = torch.empty(3_000_000)
        second = torch.empty(1_000_000)
        del first
        return second + kept[0]  # 1 + 1 million after 3 + 1

    assert abs(peak_memory(call, CPU) - 16_000_000) < 0.1 * 16_000_000


def test_peak_memory_of_a_backward_pass():
    weight = torch.randn(1000, 1000, requires_grad=True)
    # The sine keeps its input, and gets the gradient of the sum expanded from one number; then the cosine, and the
    # product with it: at most three matrices beside each other.
    found = peak_memory(lambda: (weight * 2).sin().sum().backward(), CPU)
    assert 2 * 4_000_000 <= found <= 4 * 4_000_000


def test_reads_are_seen_inside_composite_operations_in_inference_mode(host_reads):
    values = torch.tensor([1.0, 0.0, 2.0])

    def call() -> None:
        torch.where(values > 0)  # nonzero, inside another operation
        values[values > 0]

    ordinary = count_host_reads(call)
    with torch.inference_mode():
        assert count_host_reads(call) == ordinary == 2
    with host_reads() as reads:
        call()
    assert reads == ["aten::nonzero", "aten::index"]
