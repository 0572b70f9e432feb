"""What a chart shows, as data: axes, units, points, bars."""

import base64
from pathlib import Path

from e2b_code_interpreter import Sandbox

CODE = """
import matplotlib.pyplot as plt

figure, (left, right) = plt.subplots(1, 2)
left.plot([0, 1, 2, 3], [20, 35, 61, 100], label="oven")
left.set(xlabel="Time (min)", ylabel="Temperature (C)", title="Heating")
right.bar(["wood", "gas"], [3, 7], label="price")
right.set_title("Cost")
plt.show()
"""

with Sandbox.create() as sandbox:
    (result,) = sandbox.run_code(CODE).results
    for chart in result.chart.elements:
        print(f"{chart.type.value}: {chart.title}")
        if chart.type.value == "line":
            print(f"  {chart.x_label} in {chart.x_unit}, {chart.y_label} in {chart.y_unit}")
            for line in chart.elements:
                print(f"  {line.label}: {line.points}")
        else:
            for bar in chart.elements:
                print(f"  {bar.label}: {bar.value}")
    picture = Path("charts.png")
    picture.write_bytes(base64.b64decode(result.png))
    print("the picture is in", picture)
