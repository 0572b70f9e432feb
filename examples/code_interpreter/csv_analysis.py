"""A CSV file goes in; a table and an answer come out."""

from e2b_code_interpreter import Sandbox

SALES = """month,region,units,price
1,north,120,9.5
1,south,80,9.5
2,north,140,9.0
2,south,,9.0
3,north,90,10.0
3,south,130,10.0
"""

with Sandbox.create() as sandbox:
    sandbox.files.write("/home/user/sales.csv", SALES)
    execution = sandbox.run_code(
        """
import pandas as pd

sales = pd.read_csv("sales.csv")
print(sales.isna().sum().sum(), "value is missing")
sales["turnover"] = sales.units.fillna(0) * sales.price
sales.groupby("region", as_index=False).turnover.sum()
"""
    )
    if execution.error:
        raise SystemExit(execution.error.traceback)
    print("".join(execution.logs.stdout), end="")
    # The table as data: a list for each column.
    for region, turnover in zip(*execution.results[0].data.values()):
        print(f"{region}: {turnover:.2f}")
    # The kernel remembers: what was loaded before is there.
    best = sandbox.run_code("sales.loc[sales.turnover.idxmax(), ['month', 'region']].tolist()")
    print("best:", best.text)
