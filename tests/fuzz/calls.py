"""Calls that nobody meant: their words, and the files that these name, made of a seed and a number alone."""

import contextlib
import io
import json
import os
import random
import shutil
from pathlib import Path

LEFT_ALONE = ("demo",)  # minutes long
RARE = ("extract", "recompute", "repair", "patch", "knockout", "describe", "report", "thumbnails", "train")  # seconds
STORES = ("plain", "digits", "numbers", "gated")
ODD = [
    *("", ",", " ", "nan", "inf", "-inf", "-1", "0", "1", "2", "3", "1e300", "1e-300", "9" * 30, "9" * 400),
    "x" * 300,
    *("3..1", "0..2", "0..", "..", "0,1", "é", "\udcff", "a\x00b", "\n", "'", '"', ";", "%s", "{layer}", "*", "~", "."),
    *("/", "../x", "-", "--", "eoi", "image", "image-mean", "last", "label", "sample_id", "row_id", "batch", "none"),
    *("cat", "dog", "zero:one", "cat:dog,dog:cat", "chameleon-7b", "digits-fusion", "eoi,eoi", "²", "１"),
]  # fmt: skip
SQL = [
    "from rows",
    "from samples",
    "from rows where role = 'eoi'",
    "from rows where role = 'image' and k = 0",
    "from rows limit 1",
    "from rows limit 0",
    "select row_id from rows",
    "select row_id, label as x, label as x from rows",
    "select row_id::varchar as row_id, label from rows",
    "select row_id / 2 as row_id from rows",
    "select *, residual(row_id, 1) as x from rows",
    "select encode('x') as x, row_id from rows",
    "select date 'infinity' as x, row_id from rows",
    "select interval 1 month as x",
    "select 1::uhugeint as x",
    "select {'a': [1, null]} as label, row_id from rows",
    "select 'nan'::double as label, row_id from rows",
    "select 1e308 * (row_id % 3) as label, row_id from rows",
    "select null as label, row_id from rows",
    "select '' as label, row_id from rows",
    "select repeat('x', 100000) as x",
    "select chr(27) || '[31m' as label, row_id from rows",
    "from results",
    "from run",
    "select 1; select 2",
    "drop table plan",
    "copy plan to 'x'",
    "from read_csv('/etc/passwd')",
    "select * from rows r, rows s",
]
JUNK = [
    b"",
    b"\0" * 64,
    b"[]",
    b"{}",
    b"null",
    b"[[[[",
    b"\x80\x04N.",
    b"PK\x03\x04",
    b"PAR1",
    b"\x93NUMPY",
    b"\xff\xfe",
]


class Maker:
    """Makes the arguments of one call, and the files that they name, from what is at hand in a folder."""

    def __init__(self, number: str, base: Path, folder: Path) -> None:
        self.draw, self.base, self.folder = random.Random(number), base, folder

    def call(self) -> list[str]:
        import click

        from actstore.commands import main

        context = click.Context(main.cli)
        names = [name for name in main.cli.list_commands(context) if name not in LEFT_ALONE]
        name = self.draw.choice(names)
        if name in RARE and self.draw.random() < 0.8:
            name = self.draw.choice([one for one in names if one not in RARE])
        command = main.cli.get_command(context, name)
        assert command is not None
        words = [name]
        if isinstance(command, click.Group) and (name == "train" or self.draw.random() < 0.5):
            words.append(self.draw.choice(sorted(command.commands)))
            command = command.commands[words[-1]]
        for parameter in command.params:
            if isinstance(parameter, click.Argument):
                new = name == "extract" and parameter.name == "store" and self.draw.random() < 0.6
                words += [str(self.folder / "new")] if new else self.argument(parameter, words)
            elif self.draw.random() < (0.9 if parameter.required else 0.2):
                for _ in range(self.draw.choice([1, 1, 2]) if parameter.multiple else 1):
                    words += self.option(parameter)
        words += {"extract": ["--limit", "2"], "explore": ["-o", str(self.folder / "o.html")]}.get(
            name, []
        )  # no server
        return [word.replace("\0", "") for word in words]  # which no argument of a process has

    def argument(self, parameter, words: list[str]) -> list[str]:
        if parameter.name in ("store", "stores"):
            return [self.store() for _ in range(self.draw.choice([1, 1, 2]) if parameter.name == "stores" else 1)]
        if parameter.name == "sql":
            return [self.sql()] if self.draw.random() < 0.6 or parameter.required else []
        if parameter.name == "recipe" and (parameter.required or self.draw.random() < 0.5):
            return [self.recipe("training" if words[0] == "train" else "recipe")]
        if parameter.name == "recipe":
            return []
        if parameter.name == "out":
            return [str(self.folder / "out")]
        if parameter.name == "sample" and self.draw.random() < 0.7:
            return [self.draw.choice(["digit-0001", "b0s0", "b0s2", "s1"])]
        return [self.draw.choice(ODD)]

    def option(self, parameter) -> list[str]:
        import click

        flag = max(parameter.opts, key=len)
        if parameter.is_flag:
            return [flag]
        name, kind = parameter.name, parameter.type
        if parameter.nargs > 1:
            return [flag, *(self.draw.choice(ODD) for _ in range(parameter.nargs))]
        if name == "tables":
            return [flag, f"{self.draw.choice(['mine', *ODD])}={self.table()}"]
        if self.draw.random() < 0.05:
            return [flag, self.draw.choice(ODD)]
        if name == "output":
            return [
                flag,
                str(self.folder / self.draw.choice(["o.csv", "o.json", "o.parquet", "o.npy", "o.safetensors", "o"])),
            ]
        if name == "figure":
            return [flag, str(self.folder / self.draw.choice(["f.png", "f.svg", "f.pdf"]))]
        if name in ("saes", "descriptions"):
            return [flag, self.autoencoders()]
        if name in ("together", "with_store", "untrained") or (name == "minus" and self.draw.random() < 0.5):
            return [flag, self.store()]
        if name in ("vector", "minus", "images", "model", "scores"):
            return [flag, self.file(self.draw.choice([".npy", ".npz", ".safetensors", ".json", ""]))]
        if name == "overrides":
            return [
                flag,
                self.draw.choice(["samples.limit=1", "model.path=nowhere", "capture.roles=[]", "x.y=1", "a", "="]),
            ]
        if name == "jobs":
            return [flag, self.draw.choice(["1"] * 9 + ["2"])]  # which imports everything anew
        if name == "executor":
            return [flag, self.draw.choice(["nowhere:pool", "json:loads", "dask://nobody", ""])]
        if name in ("judge", "base_url"):
            return [flag, {"judge": "nobody", "base_url": "http://127.0.0.1:9"}[name]]
        if isinstance(kind, click.Choice):
            return [flag, str(self.draw.choice(list(kind.choices)))]
        if name == "roles":
            return [flag, self.draw.choice(["eoi", "image", "eoi,image", "image-mean", "eoi,nothing"])]
        if name == "layers":
            return [flag, self.draw.choice(["0", "1", "0..2", "2,1", "7"])]
        if name in ("label", "group", "split", "said", "truth"):
            return [
                flag,
                self.draw.choice(["label", "sample_id", "row_id", "k", "length", "error", "top_tokens", "batch", "x"]),
            ]
        return [flag, self.draw.choice(["1", "2", "3"])]

    def sql(self) -> str:
        text = self.draw.choice(SQL)
        if self.draw.random() < 0.2:
            words = text.split(" ")
            del words[self.draw.randrange(len(words))]
            text = " ".join(words)
        if self.draw.random() < 0.1:
            at = self.draw.randrange(len(text) + 1)
            text = text[:at] + self.draw.choice(ODD) + text[at:]
        return text

    def store(self) -> str:
        source = self.draw.choice([*STORES * 3, "nowhere", "file"])
        if source == "nowhere":
            return self.draw.choice([str(self.folder / "nowhere"), *ODD])
        if source == "file":
            return self.file("")
        path = self.folder / f"{source}{self.draw.randrange(10**6)}"
        shutil.copytree(self.base / source, path)
        if self.draw.random() < 0.3:
            self.harm(path)
        return str(path)

    def harm(self, path: Path) -> None:
        """Change one file of a folder: its bytes, its kind, or that it is there."""
        files = sorted(file for file in path.rglob("*") if file.is_file())
        file = self.draw.choice(files)
        content, how = (
            file.read_bytes(),
            self.draw.choice(["flip", "cut", "junk", "gone", "folder", "link", "pipe", "loop"]),
        )
        file.unlink()
        if how == "flip" and content:
            at = self.draw.randrange(len(content))
            file.write_bytes(content[:at] + bytes([self.draw.randrange(256)]) + content[at + 1 :])
        elif how == "cut":
            file.write_bytes(content[: self.draw.randrange(len(content) + 1)])
        elif how == "junk":
            file.write_bytes(self.draw.choice(JUNK))
        elif how == "folder":
            file.mkdir()
        elif how == "link":
            file.symlink_to("/etc/passwd")
        elif how == "loop":
            file.symlink_to(file.name)
        elif how == "pipe" and path.name.startswith(STORES):  # of a user's own it is waited for
            os.mkfifo(file)

    def autoencoders(self) -> str:
        if self.draw.random() < 0.2:
            return self.file(self.draw.choice([".npz", ".safetensors", ""]))
        path = self.folder / f"saes{self.draw.randrange(10**6)}"
        shutil.copytree(self.base / "saes", path)
        for file in path.rglob("cfg.json"):
            if self.draw.random() < 0.5:
                file.write_text(json.dumps(self.value(json.loads(file.read_text()))))
        if self.draw.random() < 0.5:
            self.harm(path)
        return str(path)

    def value(self, known):
        """JSON with something in it changed."""
        odd = self.draw.choice([None, [], {}, "", -1, 10**400, 1.5, "x" * 1000, True, [[[]]], float("nan")])
        if not isinstance(known, dict) or not known or self.draw.random() < 0.2:
            return odd
        key = self.draw.choice(sorted(known))
        return {**known, key: odd} if self.draw.random() < 0.7 else {k: v for k, v in known.items() if k != key}

    def recipe(self, kind: str) -> str:
        """Of an extraction, or of a training."""
        if self.draw.random() < 0.2:
            return self.draw.choice(["digits-fusion", *ODD])
        text = (self.base / f"{kind}.toml").read_text()
        lines = text.splitlines()
        for _ in range(self.draw.randrange(3)):
            at = self.draw.randrange(len(lines))
            change = self.draw.choice(["drop", "double", "value"])
            if change == "drop":
                del lines[at]
            elif change == "double":
                lines.insert(at, lines[at])
            else:
                odd = self.draw.choice(["-1", "nan", '""', "[]", "{}", "true", "1e400", '"\\u0000"', "9" * 30, "["])
                lines[at] = f"{lines[at].partition('=')[0]}= {odd}"
        if kind == "recipe" and self.draw.random() < 0.5:
            lines = [line for line in lines if not line.startswith("source")]
            lines += ["[samples]" if "[samples]" not in lines else "", f'source = "table"\npath = "{self.table()}"']
        if self.draw.random() < 0.5:
            model = self.folder / "model"
            shutil.copytree(self.base / "model", model)
            self.harm(model)
            lines = [line.replace('"digits-fusion"', json.dumps(str(model))) for line in lines]
        path = self.folder / "recipe.toml"
        path.write_text("\n".join(lines), encoding="utf-8", errors="replace")
        return str(path)

    def table(self) -> str:
        path = self.folder / f"t{self.draw.choice(['.csv', '.jsonl', '.json', '.parquet', '.tsv'])}"
        if self.draw.random() < 0.3:
            path.write_bytes(self.draw.choice(JUNK))
        else:
            columns = self.draw.sample(["sample_id", "image", "prompt", "label", "x", "batch", "Größe"], 4)
            rows = [
                [self.draw.choice(["a", "", "<image>", "1", "nan", "é", '"', "null"]) for _ in columns]
                for _ in range(3)
            ]
            text = "\n".join(",".join(row) for row in [columns, *rows])
            if path.suffix == ".jsonl":
                text = "\n".join(json.dumps(dict(zip(columns, row, strict=True))) for row in rows)
            path.write_text(text)
        return str(path)

    def file(self, suffix: str) -> str:
        import numpy as np

        path = self.folder / f"f{self.draw.randrange(10**6)}{suffix}"
        how = self.draw.choice(["junk", "array", "huge", "objects", "folder", "none", "safetensors"])
        if how == "folder":
            path.mkdir()
        elif how == "array":
            shape = self.draw.choice([(8,), (2, 8), (0,), (3, 4), (1, 2, 8)])
            with path.open("wb") as file:
                np.save(file, np.full(shape, self.draw.choice([0.0, 1.0, np.nan, np.inf, 3e38])))
        elif how == "huge":
            with path.open("wb") as file:
                facts = {"descr": "<f8", "fortran_order": False, "shape": (10**12,)}
                np.lib.format.write_array_header_1_0(file, facts)
        elif how == "objects":
            with path.open("wb") as file:
                np.save(file, np.array([{}, None], dtype=object), allow_pickle=True)
        elif how == "safetensors":
            header = json.dumps({"a": {"dtype": "F32", "shape": [10**9, 10**6], "data_offsets": [0, 4]}}).encode()
            path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * self.draw.randrange(9))
        elif how == "junk":
            path.write_bytes(self.draw.choice(JUNK))
        return str(path)


def prepare(base: Path) -> None:
    """The stores, autoencoders and recipe that calls begin from."""
    import numpy as np
    import polars as pl

    import actstore
    import making
    from actstore.commands import main
    from actstore_extract.shipped import MODELS

    with contextlib.redirect_stderr(io.StringIO()):
        plain = making.store(base / "plain").path
        assert (
            main.run(["overlap", str(plain), "--label", "label", "-k", "2", "--format", "csv", "-o", str(base / "o")])
            == 0
        )
        assert main.run(["outliers", str(plain), "-o", str(base / "o")]) == 0
        assert main.run(["extract", "digits-fusion", str(base / "digits"), "--limit", "24"]) == 0
        assert main.run(["extract", "digits-gated-replay", str(base / "gated"), "--limit", "12"]) == 0
    shutil.copytree(Path(MODELS["digits-mapped"]) / "saes", base / "saes")
    shutil.copytree(MODELS["digits-fusion"], base / "model")
    ids = [f"s{i}" for i in range(12)]
    plan = pl.DataFrame(
        {"sample_id": ids, "label": [0.5, float("nan"), float("inf"), None] * 3, "split": ["train", "test"] * 6}
    )
    store = actstore.create(
        base / "numbers", plan=plan, layers=range(3), d_model=8, dtype="float32", run={"n_layers": 2}
    )
    x = np.zeros((3, 12, 8), np.float32)
    x[1], x[2] = 3e38, np.random.default_rng(0).standard_normal((12, 8)) * 1e-30
    rows = pl.DataFrame({"sample_id": ids, "role": "eoi"})
    store.write(0, samples=plan.select("sample_id"), rows=rows, residual={"eoi": x})
    from actstore_extract.recipe.shelf import shipped
    from actstore_extract.training import recipe

    (base / "recipe.toml").write_text(shipped()["digits-fusion"].text)
    few = recipe.shipped()["digits-adapter"].text.replace("epochs = 6", "epochs = 1")
    (base / "training.toml").write_text(few.replace('split = "train"', "limit = 40"))
