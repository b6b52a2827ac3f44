from helpers.random_calls import NAMES, Call, run


def test_every_call_ends_in_a_result_or_in_an_error_of_ours():
    ends, wrong = run(250, seed=0)
    assert not wrong
    assert min(ends[end] for end in ("finite", "nan", "refused")) > 3, ends


def test_all_experts_are_called_with_and_without_faults():
    calls = [Call(0, number) for number in range(250)]
    assert {call.name for call in calls} == set(NAMES)
    assert 0.3 < sum(bool(call.faults) for call in calls) / len(calls) < 0.7
