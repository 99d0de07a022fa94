"""Where the official code surprises, and what this package does instead: B1 to B17."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["right by default", "as official", "does not arise"]
NONE_NEEDED = "none needed"


@dataclass(frozen=True)
class Deviation:
    """One surprise of the official code.

    official: what its code does. consequence: what follows from that. ours: what we do by default.
    option: what brings the official behaviour back, its code name in backticks, or "none needed".
    tests: that pin it, as file::name.
    """

    id: str
    official: str
    consequence: str
    state: State
    ours: str
    option: str = NONE_NEEDED
    tests: tuple[str, ...] = ()


DEVIATIONS = (
    Deviation(
        "B1",
        "The pre-training decoder adds position embeddings in grid order to tokens that leave the "
        "encoder region after region.",
        "With regions of 2 x 5 x 10 tokens, 40 of 80 visible tokens meet another token's position "
        "(60 with 4 x 5 x 10, 70 with 8 x 5 x 10, 64 with 2 x 2 x 10, none with one time step or "
        "a full frame). Published pre-trained weights have learnt with that; classifiers have no "
        "decoder and are untouched.",
        "right by default",
        "Every token gets its own position. Loading an official pre-training checkpoint turns "
        "the published order on by itself, and says so. `method.masking.misplaced_tokens` counts.",
        "`config.ModelConfig.legacy_visible_order`",
        (
            "tests/test_masking.py::test_known_numbers_of_misplaced_tokens",
            "tests/test_autoencoder.py::"
            "test_every_visible_token_meets_its_own_position_in_the_decoder",
            "tests/test_parity.py::test_every_autoencoder_is_the_official_equations",
            "tests/test_deviations.py::test_official_pretraining_weights_bring_their_order",
        ),
    ),
    Deviation(
        "B2",
        "In pre-training, visible tokens are cut into regions by their rank, which is right only "
        "for regions of full width and equally many visible tokens in each.",
        "With 2 x 5 x 5 regions, 96 of 160 visible tokens land in another region; with 2 x 5 x 10 "
        "and a plain tube mask, 12 % on average. No error is raised.",
        "right by default",
        "Tokens are gathered by their place, for any region that divides the grid; a mask that "
        "leaves regions unequal is refused.",
        "`config.ModelConfig.legacy_visible_order`",
        (
            "tests/test_masking.py::test_split_sorts_by_region_and_merge_puts_back",
            "tests/test_masking.py::test_unequal_masks_are_refused",
            "tests/test_deviations.py::test_cutting_by_rank_mixes_regions",
            "tests/test_parity.py::test_every_autoencoder_is_the_official_equations",
        ),
    ),
    Deviation(
        "B3",
        "Numbers of masked and visible places are products of floats, cut off to integers.",
        "A ratio such as 0.29 of 100 places hides 28. None of the published settings is hit.",
        "right by default",
        "Rounded to the nearest whole number; ratios that are not whole are refused with the "
        "nearest that are.",
        NONE_NEEDED,
        (
            "tests/test_masking.py::test_the_paper_hides_45_of_50_places",
            "tests/test_deviations.py::test_every_whole_ratio_hides_what_it_says",
        ),
    ),
    Deviation(
        "B4",
        "The cross-attention form of the first stage writes into its input.",
        "Its backward pass stops with an error on current PyTorch; it cannot be trained.",
        "right by default",
        "The same forward values, out of place; all variants train.",
        NONE_NEEDED,
        (
            "tests/test_attention.py::test_every_variant_trains",
            "tests/test_parity.py::test_every_classifier_is_the_official_equations",
            "tests/test_parity.py::test_every_variant_trains",
        ),
    ),
    Deviation(
        "B5",
        "The list of parameters without weight decay names `lg_region_tokens`, but in "
        "pre-training the parameter is called `encoder.lg_region_tokens`.",
        "Representative tokens decay in pre-training and not in fine-tuning.",
        "as official",
        "They decay in pre-training and not in fine-tuning, as in the published runs.",
        "none needed; `config.FinetuneConfig.decay_rep_tokens` lets them decay there too",
        (
            "tests/test_pretrain.py::test_norms_biases_and_the_mask_token_do_not_decay",
            "tests/test_optim.py::test_the_odd_groups_can_be_switched",
        ),
    ),
    Deviation(
        "B6",
        "Layer-wise decay of the learning rate gives representative tokens the rate of the head.",
        "They learn 133 times faster than the patch embedding. Published fine-tuned models were "
        "trained so.",
        "as official",
        'They learn at the head\'s rate, as in the published runs; "first" gives them the rate of '
        "the tubelet embedding.",
        "`config.FinetuneConfig.rep_tokens_layer`",
        (
            "tests/test_optim.py::test_published_values_of_the_base_model",
            "tests/test_optim.py::test_the_odd_groups_can_be_switched",
        ),
    ),
    Deviation(
        "B7",
        "When representative tokens are classified, the last block still computes the third "
        "stage and the FFN of all tokens.",
        "About 5 % of the multiply-adds cannot reach the logits. The parameters get zero "
        "gradients, and AdamW's weight decay shrinks them all the same.",
        "right by default",
        "That work is left out, at equal logits. The parameters are kept, so that checkpoints "
        "fit; they have no gradient, and AdamW leaves them alone.",
        "`method.classifier.Classifier.tokens`: 'all' reads, and so computes, everything",
        (
            "tests/test_autoencoder.py::test_skipping_the_last_blocks_dead_work_changes_no_logit",
            "tests/test_deviations.py::test_parameters_that_cannot_matter_are_kept_and_left_alone",
        ),
    ),
    Deviation(
        "B8",
        "Validation draws random clips; recalls are computed per process and averaged, with "
        "samples counted twice to fill the last batch.",
        "Validation figures are noisy, and the mean of recalls is wrong on several GPUs.",
        "right by default",
        "Every epoch is judged on the middle clip of each video, every clip counted once, answers "
        "gathered before they are scored. Validating on the test fold, as published, is the "
        "default and is warned of; `config.FinetuneConfig.holdout` holds out training clips.",
        NONE_NEEDED,
        (
            "tests/test_folder.py::test_held_out_clips_are_the_middle_of_each_video",
            "tests/test_evaluation.py::test_two_processes_give_the_same_files",
        ),
    ),
    Deviation(
        "B9",
        "The test protocol of 2 segments x 2 crops makes two identical crops, decodes a video once "
        "for every view, and divides by zero for a single segment or crop.",
        "Twice the work for the same result.",
        "right by default",
        "The same views with the same weights, each video read once and equal views computed once; "
        "one segment or one crop is the middle one.",
        NONE_NEEDED,
        (
            "tests/test_evaluation.py::test_the_weighted_views_are_the_published_ones",
            "tests/test_evaluation.py::test_a_video_is_read_once_and_only_what_is_shown",
            "tests/test_evaluation.py::test_one_segment_and_one_crop_are_the_middle",
        ),
    ),
    Deviation(
        "B10",
        "Workers that load fine-tuning data share NumPy's random state with old PyTorch versions.",
        "Clip starts and augmentations repeat between workers.",
        "right by default",
        "A clip is fixed by seed, epoch and index alone, whoever loads it.",
        NONE_NEEDED,
        (
            "tests/test_folder.py::test_items_are_fixed_by_seed_epoch_and_index",
            "tests/test_augment.py::test_a_clip_is_fixed_by_its_key_and_leaves_global_draws_alone",
        ),
    ),
    Deviation(
        "B11",
        "Fine-tuning crops down to 8 % of the frame, though the code's own remark says 80 % for "
        "faces.",
        "Most of a face may be outside the crop. Published numbers were trained so.",
        "as official",
        "Crops of 8 % and more in the published recipes; the small preset keeps 70 % of the "
        "picture.",
        "`config.Augment.crop_area`",
        ("tests/test_augment.py::test_the_crop_box_has_the_published_area_and_ratio",),
    ),
    Deviation(
        "B12",
        "Views are merged from text files under keys without a separator, and paths are read up "
        "to the first bracket.",
        "From ten segments on views collide; a path with a bracket breaks.",
        "right by default",
        "Views are averaged in memory, by the number of the clip; no text is parsed.",
        NONE_NEEDED,
        (
            "tests/test_evaluation.py::test_probabilities_are_the_mean_over_the_published_views",
            "tests/test_evaluation.py::test_batches_and_workers_do_not_matter",
        ),
    ),
    Deviation(
        "B13",
        "Imports and launchers that current PyTorch and NumPy no longer have.",
        "The code does not start on current versions.",
        "does not arise",
        "Written for current versions; the whole test suite runs on them.",
        NONE_NEEDED,
        ("tests/test_parity.py::test_every_variant_passes_through_an_archive",),
    ),
    Deviation(
        "B14",
        "Command-line flags that cannot be turned off (any text is true), are never read, or "
        "name what does not exist (random masks).",
        "Settings that look as if they were taken are not.",
        "does not arise",
        "Options are typed from the function they call, unknown ones are refused; random, tube "
        "and region masks all exist.",
        NONE_NEEDED,
        (
            "tests/test_cli.py::test_bad_arguments_exit_with_2",
            "tests/test_masking.py::test_masks_follow_their_generator",
        ),
    ),
    Deviation(
        "B15",
        "A training span in fine-tuning ends before the last frame of the video, and its frames "
        "are 4.27 apart on average where those of testing are 4.",
        "The last frame is never the end of a training clip; training and testing differ in tempo.",
        "as official",
        "The published spans and steps, in training and in testing. Clips of pre-training follow "
        "the official rule of pre-training, which has neither flaw.",
        NONE_NEEDED,
        (
            "tests/test_augment.py::test_training_frames_are_the_published_ones",
            "tests/test_clips.py::test_clip_indices_follow_the_official_loop",
            "tests/test_clips.py::test_every_start_is_drawn_and_the_middle_is_fixed",
        ),
    ),
    Deviation(
        "B16",
        "The pre-training encoder embeds all 800 cubes and throws 90 % away; the last block of "
        "the decoder computes visible tokens that nobody reads.",
        "Of 14.05 G multiply-adds of a clip 0.63 G go into the embedding, of which a tenth is "
        "used.",
        "right by default",
        "Only visible cubes are embedded, and the decoder's last block computes masked tokens "
        "alone; equal predictions.",
        NONE_NEEDED,
        (
            "tests/test_deviations.py::test_only_visible_cubes_are_embedded",
            "tests/test_attention.py::test_vit_block_computes_only_the_last_tokens_when_asked",
            "tests/test_autoencoder.py::test_hidden_pixels_do_not_reach_the_prediction",
        ),
    ),
    Deviation(
        "B17",
        "In pre-training a broken video is replaced by a random other one; in fine-tuning a "
        "broken folder of frames ends the worker.",
        "Broken data goes unnoticed, or a run dies without a reason.",
        "right by default",
        "Unusable videos are named in one warning and left out before training starts; a frame "
        "that turns out damaged later is an error that names it. Where clips are decoded as they "
        "are needed (VoxCeleb2) a broken video ends the run by name. Fine-tuning ends by the name "
        "of the first broken clip, or lists and leaves out all of them if told to.",
        NONE_NEEDED,
        (
            "tests/test_loading.py::test_a_process_that_is_killed_names_what_it_read",
            "tests/test_folder.py::test_broken_ones_among_good_ones_are_named_and_skipped",
            "tests/test_folder.py::test_a_video_damaged_inside_is_skipped_or_named",
        ),
    ),
)

_HEAD = """\
# Differences from the official code

What the official MAE-DFER code does that surprises, and what this package does instead. The
equations of the models are the same, number for number: `maedfer parity` compares them with
outputs of the official code.

This page is drawn from `maedfer_lab/checkpoints/deviations.py`; a test keeps the two equal.
"""


def markdown() -> str:
    """The list as a page of Markdown: one table, then the tests that pin each row."""
    lines = [
        _HEAD,
        "| | the official code | consequence | here | what it does here | official behaviour by |",
        "|---|---|---|---|---|---|",
    ]
    for d in DEVIATIONS:
        lines.append(
            f"| {d.id} | {d.official} | {d.consequence} | {d.state} | {d.ours} | {d.option} |"
        )
    lines += ["", "## Tests", ""]
    for d in DEVIATIONS:
        tests = ", ".join(f"`{test}`" for test in d.tests)
        lines.append(f"- {d.id}: {tests}")
    return "\n".join([*lines, ""])
