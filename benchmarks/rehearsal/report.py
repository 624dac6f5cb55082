"""How the rehearsal's rows are printed and kept."""

TIMES = ("before", "after")


def printed(row):
    """A row as lines for who reads along."""
    lines = [f"{row['name']}, {row['precision']}: mixed devices {len(row['mixed']) or 'none'}"]
    lines += [f"  mixed {times} x {what} at {place}" for times, what, place in row["mixed"]]
    for key, total in row["waits"].items():
        lines.append(f"  {key}: the host waits {total} times")
        lines += [f"    {n} x {what} at {place}" for n, what, place in row["waits_at"][key]]
    operators = [f"{k} {v:.1f}" for k, v in row["bytes_by_operator"].items() if v >= 1]
    lines += [
        f"  modules {', '.join(f'{k} {chr(47).join(v)}' for k, v in row['modules'].items())}",
        f"  products {row['products']}, logarithms {row['logarithms']}",
        f"  bytes a token and entry of the vocabulary, in a pair: elementwise "
        f"{row['elementwise_bytes']:.1f}, of products {row['product_bytes']:.1f}",
        f"    {', '.join(operators)}",
        f"  kernels of a pair {row['kernels']:.0f}; bodies {row['bodies']:.2f}, heads "
        f"{row['heads']:.2f}; losses {row['losses']}",
    ]
    return "\n".join(lines)
