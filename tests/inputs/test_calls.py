from unisync_loss.inputs.calls import EVERY, CheckedCalls, Finding


def test_the_first_three_and_every_thousandth():
    calls = CheckedCalls()
    due = []
    for call in range(1, 2 * EVERY + 3):
        if calls.due:
            due.append(call)
        calls.count()
    assert due == [1, 2, 3, 1001, 2001]


def test_each_kind_is_logged_once(caplog):
    calls = CheckedCalls()
    for finding in (Finding("range", "first"), Finding("range", "second"), Finding("silence", "third")):
        calls.count([finding])
    assert [record.message for record in caplog.records] == ["first", "third"]
