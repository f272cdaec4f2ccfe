import numpy as np

from semisam.backends._graph import neighbour_graph


def test_face_neighbours_have_the_length_of_their_step():
    down = np.array([[1, 2, 3]], np.float32)
    along = np.array([[4, 5], [6, 7]], np.float32)
    found = neighbour_graph([down, along], (2, 3)).toarray()
    wanted = np.zeros((6, 6))
    for a, b, length in (
        (0, 3, 1),
        (1, 4, 2),
        (2, 5, 3),
        (0, 1, 4),
        (1, 2, 5),
        (3, 4, 6),
        (4, 5, 7),
    ):
        wanted[a, b] = wanted[b, a] = length
    np.testing.assert_array_equal(found, wanted)
