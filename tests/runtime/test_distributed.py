import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinanet.errors import InputError
from retinanet.runtime.distributed import broadcast, gather, on_main, share_of, sum_over_ranks, world_size
from tests.helpers.processes import run_together


@given(st.lists(st.integers(), max_size=40), st.integers(1, 9))
def test_shares_partition_the_list_in_order_and_differ_by_at_most_one(items, parts):
    shares = [share_of(items, part, parts) for part in range(parts)]
    assert list(itertools.chain(*shares)) == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_collectives_of_a_single_process_return_its_own_values():
    import torch

    assert world_size() == 1
    assert gather("x") == ["x"] and broadcast("x") == "x" and on_main(lambda: 7) == 7
    assert sum_over_ranks(torch.tensor([1.0, 2.0])).tolist() == [1.0, 2.0]


GROUP = """
    import json, sys
    import torch
    from retinanet.runtime.distributed import broadcast, gather, is_main, on_main, process_group, rank, sum_over_ranks
    from retinanet.errors import InputError

    def refuse():
        raise InputError("refused by the main process")

    with process_group(torch.device("cpu"), timeout=60) as store:
        store.add("processes", 1)
        try:
            on_main(refuse)
        except InputError as error:
            message = str(error)
        results = {
            "sum": sum_over_ranks(torch.tensor([1.0, float(rank())])).tolist(),
            "gathered": gather({"rank": rank()}),
            "broadcast": broadcast(f"from {rank()}"),
            "on_main": on_main(lambda: rank() + 10),
            "message": message,
            "main": is_main(),
            "count": store.add("processes", 0),
        }
    print(json.dumps(results))
"""


@pytest.mark.slow
def test_collectives_of_three_processes():
    results = [json.loads(text) for text in run_together(3, GROUP)]
    for rank, values in enumerate(results):
        assert values["sum"] == [3.0, 0.0 + 1.0 + 2.0]
        assert values["gathered"] == ([{"rank": 0}, {"rank": 1}, {"rank": 2}] if rank == 0 else None)
        assert values["broadcast"] == "from 0" and values["on_main"] == 10
        assert values["message"] == "refused by the main process"
        assert values["main"] is (rank == 0)


def test_input_error_from_on_main_is_raised_in_a_single_process():
    def refuse():
        raise InputError("no")

    with pytest.raises(InputError, match="no"):
        on_main(refuse)
