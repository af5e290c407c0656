"""Which run a config is: the settings in which two differ."""

from ssl_rs.stages.identified import changed_settings


def test_a_key_that_came_later_is_no_difference_to_a_run_before_it():
    before = {"trainer": {"max_steps": 5}}
    assert changed_settings(before, {"trainer": {"max_steps": 6, "encoder_lr_factor": 1.0}}) == [
        "trainer.max_steps was 5, is 6"
    ]
    assert changed_settings(before, {"trainer": {"max_steps": 5, "encoder_lr_factor": 0.1}}) == [
        "trainer.encoder_lr_factor was 1.0, is 0.1"
    ]
