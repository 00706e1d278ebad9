"""What the comparison with llama.cpp derives from what it measured."""

import pathlib
import re
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "bench"))

import compare  # noqa: E402
import environment  # noqa: E402
import perplexity  # noqa: E402
import report  # noqa: E402


def result() -> dict:
    speeds = {name: {"ours": [300.0, 100.0, 200.0], "llama": [50.0]} for name in compare.WORKLOADS}
    start = {"seconds_to_first_id": 0.25, "seconds_from_process_start": 0.3, "peak_bytes": 120e6}
    return {
        "model": "A model",
        "format": "Q4_0",
        "file": {
            "file_bytes": 100_000_000,
            "decode_bytes": 80_000_000,
            "bytes_by_type": {"Q4_0": 75_000_000, "Q8_0": 25_000_000},
        },
        "positions_per_second": speeds,
        "bytes_per_second_read": {"memory": [20e9], "weights": [40e9]},
        "decode_share_of_bandwidth": 0.8,
        "start": {"ours": start, "llama": start},
        "peak_over_file_and_cache": 1.1,
    }


class Bench(unittest.TestCase):
    def test_llama_cpp_is_built_for_this_machine(self):
        flags = environment.build_flags({"avx2"}, "native", "-DMORE=ON")
        self.assertIn("-DGGML_NATIVE=ON", flags)
        self.assertNotIn("amx", flags)
        self.assertTrue(flags.endswith("-DMORE=ON"))

    def test_tiles_are_configured_by_a_header_that_is_there(self):
        flags = environment.build_flags({"avx2", "amx_tile"}, "native", "")
        header = re.search(r"-include (\S+)'", flags).group(1)
        self.assertTrue(pathlib.Path(header).is_file())

    def test_without_amx_the_other_sets_are_named(self):
        flags = environment.build_flags({"avx2", "amx_tile", "avx512f"}, "avx512", "")
        self.assertIn("-DGGML_NATIVE=OFF", flags)
        self.assertIn("-DGGML_AVX2=ON", flags)
        self.assertIn("-DGGML_AVX512=OFF", flags)

    def test_avx2_is_all_that_may_be_used_where_that_is_asked(self):
        flags = environment.build_flags({"avx2", "avx512_vnni"}, "avx2", "")
        self.assertIn("-DGGML_AVX2=ON", flags)
        self.assertIn("-DGGML_AVX512_VNNI=OFF", flags)

    def test_stolen_time_is_a_share_of_the_time_that_was_wanted(self):
        later = [130, 0, 20, 900, 50, 0, 0, 10]
        before = [100, 0, 10, 500, 0, 0, 0, 0]
        now, compare.processor_times = compare.processor_times, lambda: later
        self.addCleanup(setattr, compare, "processor_times", now)
        self.assertAlmostEqual(compare.stolen_share(before), 10 / 50)
        self.assertIsNone(compare.stolen_share(None))

    def test_a_block_for_people_shows_medians_ratios_and_shares(self):
        text = report.plain(result())
        self.assertIn("A model, Q4_0 (100 MB; 75 % Q4_0, 25 % Q8_0)", text)
        self.assertRegex(text, r"decode +200\.0 +50\.0 +4\.00 +100 to 300")
        self.assertIn("16.0 of 20.0 GB/s (80 %; 40.0 GB/s", text)
        self.assertIn("peak memory 120 MB (1.10 × file and cache), llama.cpp 120 MB", text)

    def test_markdown_has_a_row_for_each_file(self):
        outcome = {
            "machine": {"processor": "P", "cores": 2, "system": "Linux 6"},
            "commit": "abc",
            "llama": {"version": "0.3.36", "system": "CPU : AVX = 1 | AMX = 0 | REPACK = 1 |"},
            "threads": 2,
            "rounds": 3,
            "stolen_share": 0.012,
            "results": [result(), result()],
        }
        lines = report.markdown(outcome).splitlines()
        rows = [line for line in lines if line.startswith("|")]
        self.assertEqual(len(rows), 4)
        self.assertEqual(len({line.count("|") for line in rows}), 1)
        self.assertIn("200.0 / 50.0 = **4.00**", rows[2])
        self.assertIn("0.3.36 (AVX, REPACK).", lines[1])
        self.assertIn("stolen by the hypervisor: 1.2 %", "\n".join(lines))

    def test_an_error_by_chance_needs_windows_that_differ(self):
        self.assertEqual(perplexity.standard_error([511.0, 1022.0], [0.0, 511.0]), 0.0)
        self.assertAlmostEqual(perplexity.standard_error([511.0, 1533.0], [0.0, 0.0]), 1.0)


if __name__ == "__main__":
    unittest.main()
