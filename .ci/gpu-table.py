"""The table of what `run kernels` printed: the best seconds of ours and of torch's for each kernel, and how many times as fast ours is."""

import json
import sys


def documents(text):
    """Every JSON object in a text, whatever else stands there."""
    decoder, at = json.JSONDecoder(), 0
    while (at := text.find("{", at)) >= 0:
        try:
            value, at = decoder.raw_decode(text, at)
            yield value
        except json.JSONDecodeError:
            at += 1


def main():
    ours, theirs = {}, {}
    with open(sys.argv[1], encoding="utf-8") as file:
        for value in documents(file.read()):
            # Of a document that was cut off its lines are found one by one.
            for line in value.get("kernels", [value]):
                if "share_of_roofline" in line:
                    ours.setdefault((line["name"], line["size"]), []).append((line["seconds"], line["share_of_roofline"], line["measured_over_predicted"]))
            if "name" in value and "seconds" in value and "share_of_roofline" not in value:
                theirs.setdefault((value["name"], value["size"]), []).append(value["seconds"])
    print(f"{'kernel':<60}{'us':>10}{'of roofline':>13}{'/ predicted':>13}  times as fast as torch's")
    for (name, size), lines in ours.items():
        seconds, share, predicted = min(lines)
        rivals = [(other, min(times)) for (other, of), times in theirs.items() if of == size and (other == name or other.startswith(name + ", "))]
        ratios = "  ".join(f"{time / seconds:.2f} {other.removeprefix(name).removeprefix(', ')}".strip() for other, time in rivals)
        label = f"{name}, {size}" if size else name
        print(f"{label:<60}{seconds * 1e6:>10.1f}{share * 100:>11.0f} %{predicted:>13.2f}  {ratios or '-'}")


if __name__ == "__main__":
    main()
