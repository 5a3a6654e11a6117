"""Rows of results, the goals they are held against, and how both are printed."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Goal:
    """What a value should reach."""

    sense: str  # ">=" or "<="
    value: float

    def reached(self, value):
        """Whether a value is good enough."""
        return value >= self.value if self.sense == ">=" else value <= self.value

    def ratio(self, value):
        """How far it is: 1 is just reached, more is better. `None` if there is no such number."""
        best, worst = (value, self.value) if self.sense == ">=" else (self.value, value)
        return round(best / worst, 3) if worst else None


@dataclass
class Row:
    """One number."""

    measure: str
    case: str
    metric: str
    value: float
    unit: str
    goal: Goal | None = None
    # What else is worth keeping, for programs.
    details: dict[str, Any] | None = None

    def as_json(self):
        """The row for programs."""
        row = {key: value for key, value in asdict(self).items() if value is not None}
        if self.goal:
            row["goal"] |= {"reached": self.goal.reached(self.value), "ratio": self.goal.ratio(self.value)}
        return row


HEADS = ("measure", "case", "metric", "value", "unit", "goal", "reached", "ratio")


def cells(row):
    """The row for people."""
    goal = ["", "", ""]
    if row.goal:
        ratio = row.goal.ratio(row.value)
        mark = "yes" if row.goal.reached(row.value) else "NO"
        goal = [f"{row.goal.sense} {number(row.goal.value)}", mark, "" if ratio is None else f"{ratio:.2f}"]
    return [row.measure, row.case, row.metric, number(row.value), row.unit, *goal]


def number(value):
    """A number with as many digits as mean something."""
    if value == int(value):
        return f"{int(value):,}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def headline(about):
    """The machine in one line."""
    parts = [
        about["cpu"],
        f"{about['cores']} cores",
        f"{about['memory_gib']} GiB",
        f"Linux {about['kernel']}",
        f"state on {about['filesystem']}",
        f"load before {about['load_before']}",
        f"revision {about['revision']}",
        about["time"],
    ]
    return ", ".join(parts)


def summary(rows):
    """How many goals were reached."""
    held = [row for row in rows if row.goal]
    reached = sum(row.goal.reached(row.value) for row in held)
    return f"{reached} of {len(held)} goals reached" if held else ""


def table(about, rows):
    """The report for people: columns aligned, the measure named once."""
    lines = [HEADS]
    last = None
    for row in rows:
        line = cells(row)
        lines.append(line if row.measure != last else ["", *line[1:]])
        last = row.measure
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADS))]
    right = {HEADS.index(head) for head in ("value", "goal", "ratio")}
    text = [headline(about), ""]
    for line in lines:
        aligned = (
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        text.append("  ".join(aligned).rstrip())
    return "\n".join([*text, "", summary(rows)]).rstrip()


def markdown(about, rows):
    """The report for docs/benchmarks.md."""
    lines = [headline(about), "", f"| {' | '.join(HEADS)} |", "|---" * len(HEADS) + "|"]
    lines += [f"| {' | '.join(cells(row))} |" for row in rows]
    return "\n".join([*lines, "", summary(rows)]).rstrip()
