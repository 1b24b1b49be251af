"""What users met, kept as tests: each case of a report, with the tests that would fail if it came back.

The cases were made after public bug reports and questions about long-tail repositories, folders of images, Ray, Optuna,
MLflow and PyTorch. Two of them are tested here; the others where what they are about is tested.
"""

import ast
import functools
import re
import shutil

import numpy as np
import pytest
from PIL import Image

import run_search
from tests.search import in_process, memory_mlflow
from tests.search.memory_mlflow import MemoryMlflow
from tests.test_architecture import ROOT
from trainables.trial_spec import forget_data

DATA = {
    "every image of a class, or of all, is unreadable or a pointer of Git LFS": [
        "tests/trainables/test_data_describe.py::test_a_class_that_cannot_be_read_is_named_with_the_reason",
        "tests/trainables/test_data_decoding.py::test_what_a_file_is_instead",
    ],
    "50 val images of each class allow every objective": [
        "tests/test_cases.py::test_fifty_val_images_of_each_class_allow_every_objective",
    ],
    "a truncated val image among streamed ones": [
        "tests/trainables/test_feeds.py::test_both_feeds_decide_alike_about_every_file",
        "tests/trainables/test_feeds.py::test_a_damaged_test_image_stops_training_before_it_begins",
    ],
    "arrays under other names, names as bytes, one text or twice": [
        "tests/trainables/test_data_own.py::test_npz_in_other_words",
        "tests/trainables/test_data_own.py::test_bad_npz",
        "tests/trainables/test_data_own.py::test_npz_layouts",
    ],
    "one image of one pixel among photos": [
        "tests/trainables/test_data_describe.py::test_what_messages_propose_works",
    ],
    "photos with a rare ending": [
        "tests/trainables/test_data_folders.py::test_images_with_rarer_endings_and_none_count_and_are_told",
    ],
    "the first file is broken": ["tests/trainables/test_data_own.py::test_a_broken_first_file_decides_nothing"],
    "costs in another order than the classes": [
        "tests/trainables/test_deployment.py::test_costs_are_read_by_name_whatever_their_order",
    ],
    "a class is called train": ["tests/trainables/test_data_folders.py::test_a_class_may_be_called_like_a_split"],
    "splits below the classes": [
        "tests/trainables/test_data_folders.py::test_splits_below_the_classes_are_used_as_given",
    ],
    "a mask beside each photo": ["tests/trainables/test_data_folders.py::test_masks_and_copies_beside_images_are_told"],
    "icons whose form is in their transparency": [
        "tests/trainables/test_data_decoding.py::test_transparent_pixels_are_laid_on_the_background",
        "tests/trainables/test_data_describe.py::test_another_background_is_proposed_and_told",
    ],
    "photos that were taken with the phone turned": [
        "tests/trainables/test_data_decoding.py::test_by_hand_a_photo_that_was_taken_with_the_phone_turned",
        "tests/trainables/test_data_decoding.py::test_every_orientation",
    ],
    "labels 10, 20, 30": ["tests/trainables/test_data_own.py::test_labels_that_are_numbers_name_their_classes"],
    "a quote in the name of the data": ["tests/search/test_tracking.py::test_data_may_be_called_anything"],
    "names that are markup": [
        "tests/trainables/test_data_folders.py::test_names_that_act_on_their_reader",
        "tests/trainables/test_data_describe.py::test_tables_and_arrays_tell_what_they_do_not_use",
    ],
    "every trial fails alike": [
        "tests/search/test_run_failures.py::test_a_search_that_fails_alike_in_every_trial_says_why_and_ends",
    ],
    "data that change while a search is interrupted": [
        "tests/search/test_run_failures.py::test_data_that_change_between_two_runs_are_never_mixed",
    ],
    "images that were added after the search": [
        "tests/trainables/test_data_identity.py::test_images_that_were_added_are_trained_on_with_a_word",
    ],
    "a test split of one image": [
        "tests/trainables/test_train.py::test_a_test_of_one_image_is_told_and_fixes_nothing",
        "tests/trainables/test_serving.py::test_any_number_of_images",
    ],
    "pixels from 0 to 1 sent to a served model": [
        "tests/trainables/test_serving.py::test_everything_else_is_refused_with_a_sentence",
    ],
    "classes without val images": [
        "tests/analysis/test_report.py::test_classes_without_val_images_are_named_where_the_accuracy_stands",
        "tests/trainables/test_data_division.py::test_classes_that_starve_in_a_given_split_are_named",
    ],
}

SEARCHES = {
    "a copied project writes into the original": [
        "tests/search/test_settings.py::test_a_copied_or_moved_project_has_its_own_places",
        "tests/search/test_sync.py::test_a_copied_project_reads_and_writes_its_own_artifacts",
    ],
    "a space that reads a file beside it": [
        "tests/search/test_workspace.py::test_a_space_that_reads_and_imports_beside_it_is_resumed_without_any_of_it",
        "tests/search/test_workspace.py::test_a_change_beside_the_space_is_named",
    ],
    "two searches in a fresh directory": [
        "tests/analysis/test_mlflow_store.py::test_two_that_start_together_make_one_database",
    ],
    "a store's address with a password": ["tests/test_cases.py::test_a_password_stands_nowhere"],
    "a long TMPDIR": [
        "tests/search/test_own_ray.py::test_a_place_without_sockets_is_said_and_another_is_taken",
    ],
    "more slots than CPUs are allowed": [
        "tests/search/test_own_ray.py::test_bound_to_some_cpus",
        "tests/search/test_own_ray.py::test_what_a_batch_system_has_given",
    ],
    "the study's file is gone, damaged or locked": [
        "tests/search/test_study_file.py::test_a_damaged_file_is_replaced",
        "tests/search/test_study_file.py::test_a_file_that_somebody_has_locked_holds_nothing_up",
    ],
    "a choice that is off is no parameter in MLflow": [
        "tests/search/test_sync.py::test_every_choice_of_the_space_is_a_parameter_of_every_run",
    ],
    "MLFLOW_TRACKING_URI": [
        "tests/analysis/test_mlflow_store.py::test_the_store_of_the_environment_is_followed_and_said",
    ],
    "a question mark in the name of a folder": ["tests/search/test_study_file.py::test_any_path"],
    "an interrupt while MLflow makes its database": [
        "tests/analysis/test_mlflow_store.py::test_a_kill_while_the_database_is_made_leaves_nothing_harmful",
        "tests/analysis/test_mlflow_store.py::test_a_half_made_database_is_named_kept_and_replaced",
    ],
    "a trial that failed and ran again": [
        "tests/search/test_tracking.py::test_a_failed_trial_that_ran_again_takes_its_run_over",
    ],
    "a process of Ray is killed": [
        "tests/search/test_own_ray.py::test_a_search_that_loses_a_process_of_ray_shows_what_it_has_and_ends",
    ],
    "a kill at any moment": [
        "tests/test_crash.py::test_killed_at_random_moments_training_ends_the_same",
        "tests/search/test_faults.py::test_a_search_survives_a_power_cut_at_any_call",
        "tests/search/test_simulation.py::test_nothing_is_lost_repeated_or_decided_otherwise",
        "tests/search/test_sync.py::test_a_writer_killed_before_any_of_its_calls",
    ],
    "a journal that was damaged": [
        "tests/search/test_run_failures.py::test_a_damaged_journal_is_one_sentence_and_its_remedy_works",
    ],
    "a full disk": [
        "tests/search/test_run_failures.py::test_a_full_disk_is_a_sentence_and_the_search_is_resumed",
        "tests/trainables/test_train.py::test_a_full_disk_is_one_sentence_and_the_training_goes_on",
    ],
    "errors of a network folder that pass": [
        "tests/trainables/test_storage.py::test_an_error_that_passes_is_not_noticed"
    ],
    "code that a recipe names": [
        "tests/trainables/test_own_code.py::test_code_that_a_recipe_names_is_shown_and_does_not_run",
    ],
}


@functools.cache
def names_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("case", [*DATA, *SEARCHES])
def test_every_case_has_its_tests(case):
    for test in (DATA | SEARCHES)[case]:
        file, _, name = test.partition("::")
        assert name in names_in(file), test


def test_fifty_val_images_of_each_class_allow_every_objective(tmp_path, monkeypatch, capsys):
    draws = np.random.default_rng(0)
    for split, counts in {"train": (60, 30, 10), "val": (50, 50, 50), "test": (20, 20, 20)}.items():
        for name, count in zip(("ant", "bee", "cat"), counts, strict=True):
            place = tmp_path / "photos" / split / name
            place.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(draws.integers(0, 255, (8, 8, 3), np.uint8)).save(place / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    line = ["--space", str(ROOT / "spaces" / "full_combo.py"), "--data", "folder:photos", "--dry-run", "--objective"]
    assert run_search.main([*line, "both"]) == 0, capsys.readouterr().err
    (tmp_path / "photos" / "val" / "bee" / "0.png").unlink()
    forget_data()
    assert run_search.main([*line, "harmonic_mean"]) == 2
    assert "needs at least 50 val images per class" in capsys.readouterr().err


def test_a_password_stands_nowhere(tmp_path, capsys):
    """Neither in a file that a search leaves, nor on the screen; the store is written all the same."""
    uri = memory_mlflow.URI.replace("//", "//me:secretword@")
    server = MemoryMlflow(tmp_path / "on its way")
    server.scratch.mkdir()
    with server.serving():
        options = {"space": in_process.TINY, "seeds": 2, "trials": 0, "race": False, "tracking_uri": uri}
        assert in_process.run(tmp_path, **options).complete
        assert len(memory_mlflow.content(uri, "s")) == 1 + 2 + 4
    shutil.rmtree(server.scratch)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in files if b"secretword" in path.read_bytes()] == [] and len(files) > 10
    printed = "".join(capsys.readouterr())
    assert "secretword" not in printed and re.search(r"http://me:\*\*\*@memory\.test", printed)
