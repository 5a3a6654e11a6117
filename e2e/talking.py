"""A service that writes numbered lines to both outputs all the time, and what a reader has to get of them."""

import re


def script(bin_folder):
    """The service. Its lines of standard error come in two halves, and get the time of the first."""
    return f"""#!/bin/sh
(number=0; while sleep 0.01; do number=$((number + 1)); echo out $number; done) &
(number=0; while true; do number=$((number + 1)); printf 'err ' >&2; sleep 0.03; echo $number >&2; done) &
exec {bin_folder}/flmexec-service
"""


def numbers(lines):
    """Numbers of the lines in the order in which they came, by node, executor and output."""
    found = {}
    for line in lines:
        said = re.fullmatch(r"(out|err) (\d+)", line["text"])
        if said:
            assert said[1] == line["output"], line
            found.setdefault((line["node"], line["executor"], said[1]), []).append(int(said[2]))
    return found


def assert_each_once(lines, from_start=True):
    """No number is missing between the first and the last, and none comes twice or before a smaller one."""
    found = numbers(lines)
    assert found
    for output, said in found.items():
        first = 1 if from_start else said[0]
        expected = list(range(first, first + len(said)))
        assert said == expected, (
            output,
            [pair for pair in zip(said, expected, strict=True) if pair[0] != pair[1]][:3],
        )
