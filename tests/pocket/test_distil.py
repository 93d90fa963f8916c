"""What students of scenes learn from, and their order."""

from afa_core.training.data.prompt_folder import read_prompt_folder
from tests.pocket.distil import lessons, students
from tests.pocket.scenes import pairs
from tests.tables import learners


def test_the_prompt_list_covers_its_pairs_and_no_other_list():
    own, covered = lessons.FULL.captions
    assert len(own) == lessons.FULL.others and covered == [*map(learners.caption, pairs.load(lessons.COVERED))]
    names = {subject.name for subject in pairs.subjects_of(lessons.OUTSIDE)}
    assert not any(f" {name}," in caption for name in names for caption in own + covered)
    shown = {*map(learners.caption, learners.learnt(lessons.FULL.shown))}
    assert not shown & {*covered}


def test_the_node_holds_out_nothing_that_is_covered(tmp_path, monkeypatch):
    monkeypatch.setattr(lessons.common, "WORK", tmp_path)
    own, covered = lessons.QUICK.captions
    folder = read_prompt_folder(lessons.QUICK.prompts())
    assert {item.caption for item in folder.items} == {*own, *covered}
    assert folder.held_out <= {*own} and folder.held_out


def test_a_control_comes_behind_the_student_that_it_is_trained_after():
    """The node trains both: a student that is there already costs it nothing."""
    order = [(s.pictures, s.prompts, s.rank, s.teacher, s.control) for s in (students.MAIN, *students.OTHERS)]
    for *same, control in order:
        assert not control or order.index((*same, False)) < order.index((*same, True))
